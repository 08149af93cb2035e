"""What other programs and dialects write: HTML in Markdown, lists, raised text, marks, readings."""

from __future__ import annotations

import pytest
from document_files import text_of

from rag_ft.documents.formats.cleaning import join_broken_words, tidy
from rag_ft.documents.formats.html import content_of_html
from rag_ft.documents.formats.latex import read_latex
from rag_ft.documents.formats.markdown import content_of_markdown, read_mdx
from rag_ft.documents.formats.rst import read_rst
from rag_ft.documents.formats.rtf import read_rtf
from rag_ft.documents.formats.text import content_of_text

WRAPPED = "The visitor of the harbour shows at the gate these things to the guard:"


@pytest.mark.parametrize(
    "source, said",
    [
        ("A <dl><dt>Tide</dt><dd>High</dd></dl> B", "A Tide High B"),
        ("Row<h3>Head</h3>x <section>S1</section><section>S2</section>", "Row Head x S1 S2"),
        ("See <ruby>東<rt>とう</rt></ruby>", "See 東(とう)"),
        ("A <style>p{q:r}</style>b <script>s()</script>c", "A b c"),
        ("And <kbd\n>Ctrl</kbd>.", "And Ctrl."),
        ("# Head {#id .cls}", "Head"),
        ("[Bay]{.small} and [x](y){target=_blank} of {1, 2}", "Bay and x of {1, 2}"),
        (":::warning\nMind the gap.\n:::", "Warning\n\nMind the gap."),
        ('!!! note "Mind"\n    The gap.', "Mind\n\nThe gap."),
        ("!!! Mind the gap", "Mind the gap"),
        ("> [!TIP]\n> Go on.", "Tip\nGo on."),
        ("[[Quay]], [[quay|the wall]], a[[1]] and ==marked==", "Quay, the wall, a[[1]] and marked"),
        ("```\n::: x\n==a== [[b]]\n```", "::: x\n==a== [[b]]"),
    ],
)
def test_marks_of_dialects_and_html_inside_a_line(source: str, said: str) -> None:
    assert text_of(content_of_markdown(source)) == said


def test_references_in_the_title_of_the_front_matter_are_decoded() -> None:
    assert content_of_markdown("---\ntitle: Rope &amp; sail\n---\nText").title == "Rope & sail"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ('{{< note title="Mind" >}}', "{{< /note >}}"),
        ("{{% tip %}}", "{{% /tip %}}"),
        ('{% hint style="info" %}', "{% endhint %}"),
    ],
)
def test_shortcodes_in_a_line_of_their_own_are_no_text(begin: str, end: str) -> None:
    source = f"{begin}\nThe quay is wet.\n{end}\n\n```\n{begin}\n```\n\nWrite `{begin}` first.\n"
    texts = [block.text.strip() for block in content_of_markdown(source).blocks]
    assert texts == ["The quay is wet.", begin, f"Write {begin} first."]


def test_imports_components_and_comments_of_mdx_are_no_text() -> None:
    source = (
        "import Tip from './tip'\nexport const a = {\n  b: 1\n}\n\n# Boat\n\n{/* no */}\n\n"
        'The <Tip a={1} b="x">boat</Tip> sails.\n\n```\nimport x\n<Tip>\n```\n'
    )
    said = text_of(read_mdx(source.encode()))
    assert said == "Boat\n\nThe boat sails.\n\nimport x\n<Tip>"


@pytest.mark.parametrize(
    "page, said",
    [
        ("<table><tr><td><ol start=4><li>Open<li>Close</ol><td>x</table>", "4. Open; 5. Close | x"),
        (
            "<ol style='list-style-type:upper-roman'><li>One<li value=4>Four</ol>",
            "I. One\nIV. Four",
        ),
        (
            "<marquee>Storm</marquee>Calm<object>No film</object>end",
            "Storm\n\nCalm\n\nNo film\n\nend",
        ),
        (
            "Area <span class=MathJax>x2</span><script type='math/tex'>x^2</script> end",
            "Area x^2 end",
        ),
        ("So <img class=latex alt='E = mc^2'> holds", "So E = mc^2 holds"),
        ("<iframe src=x/><p>Kept by Ola.</p>", "Kept by Ola."),
        ("<nav><script>'</nav>'</script>Home</nav><p>Kept by Ola.</p>", "Kept by Ola."),
    ],
)
def test_pages(page: str, said: str) -> None:
    assert text_of(content_of_html(page)) == said


def test_raised_text_of_latex_rst_and_rtf_is_not_glued_to_digits() -> None:
    latex = rb"\begin{document}It has 10\textsuperscript{6} parts.\end{document}"
    assert text_of(read_latex(latex)) == "It has 10^6 parts."
    assert text_of(read_rst(b"It has 10\\ :sup:`6` parts.")) == "It has 10^6 parts."
    raised = rb"10{\super 6} and 10\super 7\nosupersub  of H{\sub 2}O, in 1931{\super 4}."
    rtf = rb"{\rtf1\ansi " + raised + rb"\par}"
    assert text_of(read_rtf(rtf)) == "10^6 and 10^7 of H2O, in 1931 [4]."


def test_numbers_of_items_and_footnotes_of_rtf_are_read() -> None:
    items = rb"{\pntext\f0 4.\tab}Open\par{\listtext 5.\tab}Close{\footnote \chftn  By Ola.}\par"
    said = text_of(read_rtf(rb"{\rtf1\ansi " + items + b"}"))
    assert said == "4.\tOpen\n\n5.\tClose [ By Ola.]"


def test_lists_of_rst_keep_their_letters() -> None:
    assert text_of(read_rst(b"c. cee\nd. dee\n")) == "c. cee\nd. dee"


@pytest.mark.parametrize(
    "mark", ["[1]", "§ 1", "—", "⁃", "∙", "1º", "A1.", "1:", "~", "一、", "ⅱ."]
)
def test_items_keep_their_lines(mark: str) -> None:
    item = f"{mark} a valid ticket of the harbour that was bought online today"
    text = "\n".join([WRAPPED, item, item])
    assert text_of(content_of_text(text)) == text


def test_columns_that_two_blanks_part_keep_their_lines_and_wrapped_sentences_do_not() -> None:
    table = f"{WRAPPED[:-1]} today\nheron  12  4\nswan  9  3"
    assert text_of(content_of_text(table)) == table
    wrapped = f"{WRAPPED[:-1]} and  to\nanybody who asks for it."
    assert "\n" not in text_of(content_of_text(wrapped))


@pytest.mark.parametrize(
    "text, said",
    [
        ("THE ADMIN-\nISTRATION", "THE ADMINISTRATION"),
        ("von NASA-\nESA", "von NASA-ESA"),
        ("առավո֊\nտյան", "առավոտյան"),
        ("प्रशा-\nसन", "प्रशासन"),
        ("a north-west wind, north-\nwest", "a north-west wind, north-west"),
    ],
)
def test_broken_words_of_any_alphabet(text: str, said: str) -> None:
    assert join_broken_words(text) == said


def test_ligatures_of_dutch_and_arabic_become_letters() -> None:
    assert tidy("ĳs ﷲ") == "ijs الله"
