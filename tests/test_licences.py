"""The licences of the dependencies: none that a user of an Apache-2.0 package does not expect."""

from __future__ import annotations

import licences
import pytest


def test_no_installed_dependency_has_a_licence_that_is_not_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert licences.main(["--check"]) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    for name in ("torch", "transformers", "tokenizers", "starlette"):  # direct, and through others
        assert f"\n{name} " in shown


@pytest.mark.parametrize(
    ("said", "bad"),
    [
        ("AGPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("GPL-3.0-or-later", True),
        ("GNU General Public License (GPL)", True),
        ("", True),
        ("LGPL-2.1-or-later", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("Apache-2.0", False),
        ("BSD License", False),
    ],
)
def test_what_is_allowed(said: str, bad: bool) -> None:
    assert licences.is_bad("some-package", said) is bad


def test_a_licence_that_somebody_has_read_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licences, "READ", {"some-package": "a choice"})
    assert not licences.is_bad("some-package", "GPL-3.0-or-later")
