"""Draws returns against environment steps, from run folders or from committed tables, and says where they end.

    jaxrl plot runs/ppo-CartPole-v1-seeds0-4 runs/ppo_kl-CartPole-v1-seeds0-4 --out plots/cartpole
    jaxrl plot experiments/results/ddpg/*.csv --reference REFERENCE.csv --out plots/ddpg
    jaxrl plot experiments/results/paper.csv --only "clip 0.2" neither --out plots/paper
    jaxrl plot runs/ppo-HalfCheetah-v5-seed0 --diagnostics --out plots/halfcheetah-diagnostics

Every source is the folder of a run (also one that is not over), a folder of such folders, or a table: evaluations of
one seed, named ENV-seedK.csv, or of a whole study, with the columns env, variant, seed, step and mean_return. There is
a panel for each task, and in it a line for each algorithm and setting: the mean over its seeds (with `--iqm` their
interquartile mean), and a band that holds it with 95 % confidence, by bootstrap over the seeds, as far as all of them
have come; thin lines show the seeds that have come further. Curves of a reference
file (columns task, step, mean_return, and where it has them source and variant) are dashed. `--ends` draws the last
values as bars instead, `--diagnostics` what one run logged. Each figure is written as PNG and SVG, its data as CSV.
With `--live` it is drawn again after each evaluation, until no run trains any more, or Ctrl-C: open the PNG in a viewer
that follows the file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxrl.studies.curves import read, references
from jaxrl.studies.drawing import draw_curves, draw_diagnostics, draw_ends, save
from jaxrl.studies.lines import chosen, lines, rows_of
from jaxrl.studies.live import changes
from jaxrl.studies.script import Mistake, NothingYet, Parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """The command `jaxrl plot`. Returns the exit code: 0 done, 130 after Ctrl-C; after bad input it raises SystemExit
    with code 2."""
    parser = Parser(description=__doc__, prog=prog)
    parser.add_argument("sources", type=Path, nargs="+", metavar="RUN_DIR", help="a run, a folder of runs, or a table")
    parser.add_argument("--reference", type=Path, help="table of curves to draw dashed")
    parser.add_argument("--out", type=Path, default=Path("plots/returns"), help="the figure's path")
    parser.add_argument(
        "--only", nargs="+", metavar="LINE", help="draw these of the lines, by their names in the legend"
    )
    parser.add_argument("--iqm", action="store_true", help="the interquartile mean over seeds instead of the mean")
    parser.add_argument("--live", action="store_true", help="draw again and again while the runs train")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ends", action="store_true", help="bars of the last values")
    kind.add_argument("--diagnostics", action="store_true", help="what one run logged")
    given = parser.parse_args(argv)
    if not given.out.name:
        parser.error(f"--out {given.out} has no name: it is the figure's path, without an ending")
    if given.out.suffix.lower() in (".png", ".svg", ".csv"):
        given.out = given.out.with_suffix("")  # All three are written.
    try:
        _check(given)
        if given.live:
            _draw_live(given)
        else:
            _draw(given)
            print(_files(given.out), flush=True)
    except Mistake as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{given.out} cannot be written: {error.strerror}")
    except KeyboardInterrupt:
        return 130
    return 0


def _files(out: Path) -> str:
    return f"{out}.png, {out}.svg, {out}.csv"


def _check(given: argparse.Namespace) -> None:
    table = given.out.with_name(given.out.name + ".csv")
    if any(table.resolve() == source.resolve() for source in (*given.sources, given.reference or given.out)):
        raise Mistake(f"--out {given.out} would write over {table}, which is read: give the figure another name")
    is_plain = given.reference is None and given.only is None and not given.iqm
    if given.diagnostics and not (is_plain and len(given.sources) == 1):
        raise Mistake("--diagnostics is of one run alone: name its folder, and no --reference, --only or --iqm")
    if given.ends and given.reference is not None:
        raise Mistake("--reference is for curves: leave it off with --ends")
    files = [source for source in given.sources if not source.is_dir()]
    if given.live and files:
        raise Mistake(f"--live follows runs in their folders, and {files[0]} is no folder: leave it off")


def _draw(given: argparse.Namespace) -> int:
    """Writes the figure, and returns the last step in it."""
    what = f"{'IQM' if given.iqm else 'mean'} and 95 % interval"
    if given.diagnostics:
        figure, data = draw_diagnostics(given.sources[0])
    else:
        drawn = lines([curve for source in given.sources for curve in read(source)], given.iqm)
        if not drawn:
            raise NothingYet("none of these runs has been evaluated yet")
        drawn = chosen(drawn, given.only)
        dashed = {} if given.reference is None else references(given.reference, {line.env for line in drawn})
        figure, data = draw_ends(drawn, what) if given.ends else draw_curves(drawn, dashed, what), rows_of(drawn)
    save(figure, data, given.out)
    return max(int(row["step"]) for row in data)


def _draw_live(given: argparse.Namespace) -> None:
    """Writes the figure whenever there is something new, and a last time when no run trains any more."""
    is_named = False
    for trains in changes(given.sources, "metrics.csv" if given.diagnostics else "evaluations.csv"):
        try:
            step = _draw(given)
        except NothingYet:
            if not trains:
                raise
            continue
        if not is_named:
            print(_files(given.out), flush=True)
            is_named = True
        print(f"drawn up to step {step:,}" + ("" if trains else ": no run trains any more"), flush=True)
