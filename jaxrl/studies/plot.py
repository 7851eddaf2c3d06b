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
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.studies.curves import read, references
from jaxrl.studies.drawing import draw_curves, draw_diagnostics, draw_ends, save
from jaxrl.studies.lines import chosen, lines, rows_of
from jaxrl.studies.script import Mistake, Parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """The command `jaxrl plot`. Returns the exit code; after bad input it raises SystemExit with code 2."""
    parser = Parser(description=__doc__, prog=prog)
    parser.add_argument("sources", type=Path, nargs="+", metavar="RUN_DIR", help="a run, a folder of runs, or a table")
    parser.add_argument("--reference", type=Path, help="table of curves to draw dashed")
    parser.add_argument("--out", type=Path, default=Path("plots/returns"), help="the figure's path")
    parser.add_argument(
        "--only", nargs="+", metavar="LINE", help="draw these of the lines, by their names in the legend"
    )
    parser.add_argument("--iqm", action="store_true", help="the interquartile mean over seeds instead of the mean")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ends", action="store_true", help="bars of the last values")
    kind.add_argument("--diagnostics", action="store_true", help="what one run logged")
    given = parser.parse_args(argv)
    if not given.out.name:
        parser.error(f"--out {given.out} has no name: it is the figure's path, without an ending")
    if given.out.suffix.lower() in (".png", ".svg", ".csv"):
        given.out = given.out.with_suffix("")  # All three are written.
    what = f"{'IQM' if given.iqm else 'mean'} and 95 % interval"
    try:
        table = given.out.with_name(given.out.name + ".csv")
        if any(table.resolve() == source.resolve() for source in (*given.sources, given.reference or given.out)):
            raise Mistake(f"--out {given.out} would write over {table}, which is read: give the figure another name")
        if given.diagnostics:
            if len(given.sources) != 1 or given.reference is not None or given.only is not None or given.iqm:
                raise Mistake("--diagnostics is of one run alone: name its folder, and no --reference, --only or --iqm")
            figure, data = draw_diagnostics(given.sources[0])
        else:
            if given.ends and given.reference is not None:
                raise Mistake("--reference is for curves: leave it off with --ends")
            drawn = lines([curve for source in given.sources for curve in read(source)], given.iqm)
            if not drawn:
                raise Mistake("none of these runs has been evaluated yet")
            drawn = chosen(drawn, given.only)
            dashed = {} if given.reference is None else references(given.reference, {line.env for line in drawn})
            figure, data = draw_ends(drawn, what) if given.ends else draw_curves(drawn, dashed, what), rows_of(drawn)
        save(figure, data, given.out)
    except Mistake as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{given.out} cannot be written: {error.strerror}")
    print(f"{given.out}.png, {given.out}.svg, {given.out}.csv", file=sys.stdout)
    return 0
