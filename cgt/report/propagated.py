"""Sections of what knowledge propagation did (Sec. 5.5): pseudo-classes, layers, similarity scores.

Shapes: L sites, N source classes, M new classes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.models.norm import stacked
from cgt.report.blocks import Block, Heading, Plot, Plots, Section, Sheet, Sheets, Strip, Words
from cgt.report.models import Shown, drawn
from cgt.transfer.propagation import PropagatedBank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = 10
"""New classes, and pseudo-classes, at most."""
COLUMNS = 6
"""Pictures of a class."""
SITES = 12
"""Of these so many at most, evenly spread."""
ROWS = 20
"""Source classes of a heat map at most: the strongest."""
STRONGEST = 3
"""Source classes shown for a site."""

Part = Callable[[Shown, PropagatedBank, int], list[Block]]


def pseudo_classes(shown: Sequence[Shown]) -> Section:
    """What new classes are combined of (Fig. 8), and what they are without residuals."""
    section = Section("pseudo-classes", "Pseudo-classes")
    about = (
        "Knowledge sharing changes copies of the source's class tables. Shown as classes themselves, they "
        "are the pseudo-classes that new classes are combined of (the paper's Fig. 8)."
    )
    return _of_each(section, shown, about, _pseudo_classes)


def layers(shown: Sequence[Shown]) -> Section:
    """New classes with the first site's scores at all sites, then more and more of their own (Fig. 9)."""
    section = Section("layers", "Layer by layer")
    about = (
        "Left, the similarity scores of the first site stand at all sites; to the right, one site after the "
        "other gets its own, the last picture being the class itself (the paper's Fig. 9)."
    )
    return _of_each(section, shown, about, _layers)


def similarity(shown: Sequence[Shown]) -> Section:
    """Heat maps of the scores, and the source classes with the greatest."""
    section = Section("similarity", "Similarity scores")
    about = (
        "How much of each source class (rows) is in each new class (columns), separately for scale and shift "
        "of each site. Site 1 is the farthest from the picture."
    )
    return _of_each(section, shown, about, _similarity)


def _of_each(section: Section, shown: Sequence[Shown], about: str, part: Part) -> Section:
    """The part of each run that has scores; of none, a sentence."""
    blocks: list[Block] = []
    applied, refused = [], []
    for one in shown:
        try:
            bank = one.bank
        except UserError as error:
            refused.append(Words(f"{one.name}: the scores are in the checkpoint's state, and {error}"))
            continue
        if bank is not None:
            applied.append((one, bank))
    for number, (one, bank) in enumerate(applied):
        if len(applied) > 1:
            blocks.append(Heading(one.name))
        blocks += part(one, bank, number)
    if applied:
        section.blocks.append(Words(about))
    else:
        section.blocks.append(
            Words(
                "Scores are what cgantransfer learns, and none of the runs shown has a checkpoint with any."
            )
        )
    section.blocks.extend([*blocks, *refused])
    return section


def _pseudo_classes(one: Shown, bank: PropagatedBank, number: int) -> list[Block]:
    names = one.old_classes[:CLASSES]
    pseudo = one.alone(one.old_classes, bank.pseudo_classes())
    z_KZ = one.latents(COLUMNS)
    sheets = [
        Sheet(
            f"pseudo-{number}-{i}",
            f"from {name}",
            [
                Strip("the source's class", drawn(one.generator, z_KZ, [i] * COLUMNS)),
                Strip("the pseudo-class", drawn(pseudo, z_KZ, [i] * COLUMNS)),
            ],
        )
        for i, name in enumerate(names)
    ]
    blocks: list[Block] = []
    if one.run.config["method"].get("prior") == "frozen":
        blocks.append(Words("This run kept the prior frozen: only the batch statistics differ."))
    if len(one.old_classes) > len(names):
        blocks.append(Words(f"The first {len(names)} of {len(one.old_classes)} source classes."))
    blocks.append(Sheets(sheets))
    if not bank.residuals:
        return blocks
    bare = one.alone(one.new_classes, bank.propagated(bank.similarity(), residuals=False))
    first = one.generator.first_of_last_bank
    sheets = [
        Sheet(
            f"residuals-{number}-{i}",
            name,
            [
                Strip("propagated alone, without residuals", drawn(bare, z_KZ, [i] * COLUMNS)),
                Strip("with residuals, as trained", drawn(one.generator, z_KZ, [first + i] * COLUMNS)),
            ],
        )
        for i, name in enumerate(one.new_classes[:CLASSES])
    ]
    return [*blocks, Words("New classes as their combination alone makes them:"), Sheets(sheets)]


def _layers(one: Shown, bank: PropagatedBank, number: int) -> list[Block]:
    if bank.shared_scores:
        return [
            Words("This run has one pair of score matrices for all sites: there is nothing to introduce.")
        ]
    scores_L2NM = bank.similarity()
    counts = _spread(range(1, len(scores_L2NM) + 1))
    names = one.new_classes[:CLASSES]
    # One bank with a class for each step of each new class: they are drawn together.
    steps = [
        bank.propagated(
            torch.cat((scores_L2NM[:own], scores_L2NM[:1].expand(len(scores_L2NM) - own, -1, -1, -1)))
        )
        for own in counts
    ]
    classes = [f"{step}: {name}" for step in counts for name in one.new_classes]
    generator = one.alone(classes, stacked(steps))
    sheets = []
    for i, name in enumerate(names):
        ids = [step * len(one.new_classes) + i for step in range(len(counts))]
        strips = [
            Strip(
                f"latent {latent + 1}",
                drawn(generator, one.latents(latent + 1)[-1:].expand(len(ids), -1), ids),
            )
            for latent in range(2)
        ]
        own = ", ".join(map(str, counts))
        sheets.append(Sheet(f"layers-{number}-{i}", name, strips, f"sites with their own scores: {own}"))
    return [Sheets(sheets)]


def _similarity(one: Shown, bank: PropagatedBank, number: int) -> list[Block]:
    scores_L2NM = bank.similarity().cpu()
    shared = bank.shared_scores
    sites = [0] if shared else _spread(range(len(scores_L2NM)))
    strength_N = scores_L2NM.abs().sum((0, 1, 3))
    rows = sorted(strength_N.argsort(descending=True)[:ROWS].tolist())
    columns = range(min(len(one.new_classes), CLASSES))
    greatest = float(scores_L2NM.abs().max())
    plots = [
        _heat_map(
            f"similarity-{number}-{site + 1}",
            "all sites" if shared else f"site {site + 1}",
            scores_L2NM[site][:, rows][:, :, list(columns)],
            [one.old_classes[row] for row in rows],
            one.new_classes[:CLASSES],
            greatest,
        )
        for site in sites
    ]
    blocks: list[Block] = []
    if len(rows) < len(one.old_classes):
        blocks.append(Words(f"The {len(rows)} source classes with the greatest scores."))
    blocks.append(Plots(plots))
    ends = [0] if shared or len(sites) == 1 else [sites[0], sites[-1]]
    blocks.append(Words("The strongest source classes for the scale, as this generator makes them:"))
    blocks.append(Sheets([_strongest(one, scores_L2NM, i, ends, f"strongest-{number}-{i}") for i in columns]))
    return blocks


def _strongest(one: Shown, scores_L2NM: Tensor, place: int, sites: Sequence[int], name: str) -> Sheet:
    z_KZ = one.latents(STRONGEST)
    new = one.generator.first_of_last_bank + place
    strips = [Strip("the new class", drawn(one.generator, z_KZ, [new] * STRONGEST))]
    for site in sites:
        score_N = scores_L2NM[site, 0, :, place]
        best = score_N.abs().argsort(descending=True)[:STRONGEST].tolist()
        told = ", ".join(f"{one.old_classes[y]} {score_N[y]:.2f}" for y in best)
        strips.append(
            Strip(f"site {site + 1}: {told}", drawn(one.generator, z_KZ[:1].expand(len(best), -1), best))
        )
    return Sheet(name, one.new_classes[place], strips)


def _heat_map(
    name: str, title: str, scores_2NM: Tensor, old: Sequence[str], new: Sequence[str], greatest: float
) -> Plot:
    """Scale left, shift right, a blank column between them."""
    scale_NM, shift_NM = scores_2NM.unbind(0)
    blank_N1 = torch.full((len(old), 1), torch.nan)
    values = torch.cat((scale_NM, blank_N1, shift_NM), 1).numpy()

    def draw(axes: "Axes") -> None:
        image = axes.imshow(values, cmap="RdBu_r", vmin=-greatest, vmax=greatest, aspect="auto")
        axes.grid(visible=False)
        places = [*range(len(new)), *range(len(new) + 1, 2 * len(new) + 1)]
        axes.set_xticks(places, [_shortened(name) for name in (*new, *new)], rotation=90, fontsize=7)
        axes.set_yticks(range(len(old)), [_shortened(name) for name in old], fontsize=7)
        for start, kind in ((0, "scale"), (len(new) + 1, "shift")):
            axes.text(start + len(new) / 2 - 0.5, -0.8, kind, ha="center", va="bottom", fontsize=8)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)

    parts = []
    for i, of_class in enumerate(new):
        y = int(scale_NM[:, i].abs().argmax())
        parts.append(f"{of_class} from {old[y]} ({scale_NM[y, i]:.2f})")
    alt = (
        f"Heat map of the similarity scores, {title}. The strongest of those shown, for the scale: "
        f"{'; '.join(parts)}."
    )
    return Plot(name, title, alt, draw, height=1.5 + 0.14 * len(old))


def _spread(values: Sequence[int]) -> list[int]:
    """At most SITES of them, the first and the last among these."""
    if len(values) <= SITES:
        return list(values)
    return [values[i] for i in torch.linspace(0, len(values) - 1, SITES).round().long().tolist()]


def _shortened(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
