"""What is there of a grid, what is missing, and how long it takes."""

import statistics

from ..options import CompareArguments
from .grid import Cell
from .results import Result


def plan(args: CompareArguments, cells: list[Cell], missing: list[Cell], results: dict[str, Result]) -> str:
    """Cells by student and variant, and the time that those of the same student took."""
    students = dict.fromkeys(cell.student for cell in cells)
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    lines = [f"{len(cells)} cells, {len(cells) - len(missing)} of them in {args.results}; finished of all:"]
    width = max(len(name) for name in students)
    for student in students:
        counts = []
        for variant in variants:
            of_pair = [cell for cell in cells if (cell.student, cell.variant) == (student, variant)]
            counts.append(f"{variant} {sum(cell.name in results for cell in of_pair)}/{len(of_pair)}")
        lines.append(f"  {student:{width}}  " + "  ".join(counts))
    took = {name: [r.training["seconds"] for r in results.values() if r.student == name] for name in students}
    known = {name: statistics.median(seconds) for name, seconds in took.items() if seconds}
    if missing and known:
        usual = statistics.median(known.values())
        seconds = sum(known.get(cell.student, usual) for cell in missing) / args.processes
        guessed = sorted({cell.student for cell in missing} - set(known))
        unknown = f", guessed for {', '.join(guessed)}" if guessed else ""
        lines.append(
            f"About {seconds / 60:.0f} minutes for the missing {len(missing)}, {args.processes} at a time{unknown}."
        )
    elif missing:
        lines.append("How long a cell takes is known once one is finished; g4i train --dry_run times single steps.")
    return "\n".join(lines)
