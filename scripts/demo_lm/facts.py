"""What passages are made of: facts, styles and the passage with its ground truth."""

from dataclasses import dataclass, field

from .grammar import Domain, Entity, Relation

Key = Relation | str  # a relation of the grammar, or the word of a generic attribute


@dataclass(frozen=True)
class Fact:
    """One thing a passage states. `answer` is spelled as in the text, `sentence` is the line that
    states it."""

    entity: Entity
    domain: str
    relation: Relation | None
    attribute: str
    answer: str
    sentence: str

    @property
    def key(self) -> str:
        """Identifies what is asked, whatever the entity."""
        return self.relation.name if self.relation else "attribute:" + self.attribute


@dataclass(frozen=True)
class Style:
    """How hard passages are.

    `facts` is the range of their number; the number of entities is drawn from `entities`. `pronoun`
    to `titled` are probabilities: of a pronoun, of a filler sentence after a fact, of a generic
    attribute, of a leading or trailing clause, of a list, of two facts in one sentence, of a
    heading. The last three choose what is held out; `paraphrases` is train, held, held statements
    or held questions.
    """

    facts: tuple[int, int] = (3, 6)
    entities: tuple[int, ...] = (1,)
    pronoun: float = 0.45
    filler: float = 0.45
    attribute: float = 0.25
    decorated: float = 0.25
    listed: float = 0.15
    joined: float = 0.07
    titled: float = 0.5
    paraphrases: str = "train"
    relations: str = "train"
    split: str = "train"
    varied: float = 0.0  # how many statements and questions are put in other words (rephrase.py)

    def allowed(self, domain: Domain) -> list[Relation]:
        """The relations to use: those trained on, the held-out ones, or all of a held-out
        domain."""
        if domain.held:
            return list(domain.relations)
        return [r for r in domain.relations if r.held == (self.relations == "held")]


@dataclass
class Passage:
    """A chunk of text with its ground truth."""

    title: str
    text: str
    facts: list[Fact]
    fillers: list[str]
    entities: list[tuple[Entity, Domain]] = field(default_factory=list)

    @property
    def with_title(self) -> str:
        """Heading line and text."""
        return f"{self.title}\n{self.text}" if self.title else self.text
