"""The frame that Brickyard's pages share: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from data.page.figure import Figure, colour_of

Card = tuple[str, str, str]  # name, value, what it is next to
HOW_TO_READ = (
    '<span class="mouse">Drag over a plot to zoom in, double-click to zoom out; with a plot in focus, the arrow keys '
    "walk along it.</span> A {what}'s button hides and shows it in every plot."
)


@dataclass(frozen=True)
class Section:
    """One question and its answer."""

    id: str
    question: str
    answer: str
    figures: Sequence[Figure] = ()
    below: str = ""  # HTML: tables


def whole_page(
    name: str,
    state: str,
    cards: Sequence[Card],
    domains: Sequence[str],
    sections: Sequence[Section],
    notes: Sequence[str],
    progress: str = "",
    what: str = "domain",
) -> str:
    """A page.

    Args:
        state: a sentence below the name.
        domains: or what else `what` says, in the order of their colours; a button each, where there are figures to show
            and hide them in.
        notes: HTML, at the page's end.
        progress: HTML of a bar, or nothing.
    """
    figures = {figure.id: figure.for_script() for section in sections for figure in section.figures}
    if figures:
        notes = [HOW_TO_READ.format(what=what), *notes]
    return Template(resource("page.html")).substitute(
        name=html.escape(name),
        state=html.escape(state),
        first=sections[0].id,
        progress=progress,
        cards="\n".join(card(*entry) for entry in cards),
        links="\n".join(f'<a href="#{section.id}">{section.question}</a>' for section in sections),
        choice=choice_of(domains, what) if figures else "",
        sections="\n".join(section_html(section) for section in sections),
        notes="\n".join(f"<p>{note}</p>" for note in notes),
        css=resource("page.css"),
        scripts=scripts(figures) if figures else "",
    )


def choice_of(domains: Sequence[str], what: str) -> str:
    """The domains' buttons."""
    buttons = "\n".join(domain_button(domain, number) for number, domain in enumerate(domains))
    return (
        "<noscript><p>The plots need JavaScript; the numbers and tables do not.</p></noscript>\n"
        f'<div class="domains" role="group" aria-label="{what.capitalize()}s shown in the plots">\n{buttons}\n</div>'
    )


def scripts(figures: dict[str, Any]) -> str:
    """What draws the figures."""
    return (
        f'<script type="application/json" id="figures">{json_for_html(figures)}</script>\n'
        f"<script>{plotly_script()}</script>\n<script>\n{resource('page.js')}\n</script>"
    )


def live(page: str, seconds: float) -> str:
    """The page for a server of its own, which it asks so often what is new; it still asks nobody else."""
    page = page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)
    return page.replace('<html lang="en">', f'<html lang="en" data-live="{seconds:g}">', 1)


def news(page: str) -> str:
    """What of a page one that is open already does not have."""
    return page.replace(plotly_script(), "", 1)


def resource(name: str) -> str:
    return files("data.page").joinpath(name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """plotly.js, whole, as plotly's own package carries it."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def json_for_html(content: Any) -> str:
    """JSON that can't end the script element it stands in."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def card(name: str, value: str, note: str) -> str:
    name, value, note = (html.escape(text) for text in (name, value, note))
    return f"<div><dt>{name}</dt><dd><b>{value}</b><small>{note}</small></dd></div>"


def domain_button(name: str, number: int) -> str:
    """Shows and hides a domain in every plot; the legend of them all."""
    mark = f'<span class="swatch" style="background:{colour_of(number)}"></span>'
    return f'<button type="button" aria-pressed="true" data-domain="{number}">{mark}{html.escape(name)}</button>'


def section_html(section: Section) -> str:
    pictures = "\n".join(figure_html(figure) for figure in section.figures)
    return (
        f'<section id="{section.id}" aria-labelledby="{section.id}-question">\n'
        f'<h2 id="{section.id}-question">{html.escape(section.question)}</h2>\n'
        f'<p class="answer" data-part="{section.id}-answer">{html.escape(section.answer)}</p>\n'
        f'<div class="plots">{pictures}</div>\n<div data-part="{section.id}-below">{section.below}</div>\n</section>'
    )


def figure_html(figure: Figure) -> str:
    wide = ' class="wide"' if figure.wide else ""
    return (
        f'<figure{wide}><div class="title"><h3>{html.escape(figure.title)}</h3>{chooser(figure)}</div>\n'
        f'<div class="plot" data-figure="{figure.id}" role="img" tabindex="0" '
        f'aria-label="{html.escape(figure.label)}" style="height:{figure.height}px"></div>\n'
        f'<figcaption data-part="{figure.id}-note">{html.escape(figure.note)}</figcaption></figure>'
    )


def chooser(figure: Figure) -> str:
    """Chooses the trace that is shown, where a figure shows one at a time."""
    if not figure.choices:
        return ""
    options = "".join(
        f"<option{' selected' if number == figure.chosen else ''}>{html.escape(name)}</option>"
        for number, name in enumerate(figure.choices)
    )
    label = html.escape(f"{figure.title}: what is shown")
    return f'<select data-chooses="{figure.id}" aria-label="{label}">{options}</select>'
