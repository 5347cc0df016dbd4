"""Which language a text is in, by a model that ships in its wheel."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from data.prepare.cleaning.verdict import Drop, InLanguage, Problem

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SLICE_CHARACTERS = 1000  # of the beginning, the middle and the end: more of a long text says no more, and costs


@dataclass
class Language:
    """Names the language (ISO 639-1, `zxx` for what is none); keeps those of `keep`, or all but those of `drop`, at
    a score of `min_score` or more.
    """

    keep: list[str] = field(default_factory=lambda: ["en"])  # empty: every language
    drop: list[str] = field(default_factory=list)
    min_score: float = 0.65  # a probability, calibrated over lengths; 0 keeps what can't be told

    source: ClassVar[str] = "model: Barbaresi, py3langid; score: Penedo et al. 2024 (FineWeb), 3.3"

    def problems(self) -> Iterator[Problem]:
        known = set(_identifier().labels)
        for key in ("keep", "drop"):
            if unknown := sorted(set(getattr(self, key)) - known):
                yield key, f"expected ISO 639 codes such as en or de; {', '.join(unknown)} is none that the model knows"
        if both := sorted(set(self.keep) & set(self.drop)):
            yield "drop", f"{', '.join(both)} is to be kept as well; remove it from one of the lists"
        if not 0 <= self.min_score <= 1:
            yield "min_score", "expected a number from 0 to 1"

    def apply(self, text: str) -> InLanguage | Drop:
        language, score = _identifier().classify(_sample(text))
        if score < self.min_score:
            return Drop("unsure", f"{language} with a score of {score:.2f}, below {self.min_score:g}")
        if (self.keep and language not in self.keep) or language in self.drop:
            return Drop(language, f"{language} with a score of {score:.2f}")
        return InLanguage(text, language)


@cache  # half a second, once in each worker process
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _sample(text: str) -> str:
    if len(text) <= 3 * SLICE_CHARACTERS:
        return text
    middle = (len(text) - SLICE_CHARACTERS) // 2
    return " ".join(text[start : start + SLICE_CHARACTERS] for start in (0, middle, len(text) - SLICE_CHARACTERS))
