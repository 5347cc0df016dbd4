"""Languages, on article 1 of the Universal Declaration of Human Rights and on documentation."""

from pydoc_data.topics import topics

import pytest

from data.prepare.cleaning.language import Language
from data.prepare.cleaning.verdict import Drop, InLanguage

ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
    "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
    "coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en "
    "geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
    "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и "
    "должны поступать в отношении друг друга в духе братства.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
}
count_all = Language(keep=[], min_score=0).apply


@pytest.mark.parametrize("language", ARTICLE)
def test_languages_are_told_short_and_long(language):
    text = ARTICLE[language]
    for sample in (text, text[: len(text) // 2], text * 100):
        assert count_all(sample) == InLanguage(sample, language)
    kept = Language().apply(text)
    assert kept == InLanguage(text, "en") if language == "en" else isinstance(kept, Drop) and kept.rule == language


def test_english_documentation_is_english():
    verdicts = [Language().apply(topic) for topic in topics.values() if len(topic) > 300]
    assert sum(isinstance(verdict, InLanguage) for verdict in verdicts) >= 0.97 * len(verdicts) > 60


def test_what_cannot_be_told_is_dropped_with_its_score():
    assert Language().apply("x") == Drop("unsure", "sr with a score of 0.01, below 0.65")
    assert isinstance(count_all("x"), InLanguage)


def test_a_list_of_languages_to_drop():
    step = Language(keep=[], drop=["de", "fr"])
    assert [isinstance(step.apply(ARTICLE[code]), Drop) for code in ("de", "fr", "es")] == [True, True, False]
