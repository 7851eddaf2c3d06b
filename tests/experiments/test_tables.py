"""The tables of the pages say what the committed data say, and each of them can be redrawn."""

import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats

from jaxrl import BadInput

ROOT = Path(__file__).parents[2]
sys.path[:0] = map(str, (ROOT / "docs" / "tools", ROOT / "experiments" / "benchmarks"))

import measure  # noqa: E402
import tables  # noqa: E402

from jaxrl.studies.tables import read_rows  # noqa: E402

STUDY = """env,variant,seed,step,mean_return,std_return,episodes
A-v5,clip,0,0,99,0,1
A-v5,clip,0,100,10,0,1
A-v5,clip,1,100,30,0,1
A-v5,neither,0,100,0,0,1
A-v5,neither,1,100,-10,0,1
B-v1,clip,0,100,-4,0,1
B-v1,clip,1,100,-4,0,1
B-v1,neither,0,100,-2,0,1
B-v1,neither,1,100,-4,0,1
"""
RANDOM = "env,mean_return\nA-v5,-20\nB-v1,-8\n"
PAPER = "variant,score\nclip,0.82\n"
PUBLISHED = "task,source,version,num_seeds,protocol,mean,std\n"
PUBLISHED += "A,Book,v2,3,last,25,4\nB,Book,v1,3,last,-3,\nC,Book,v1,3,last,7,\n"


@pytest.fixture
def files(tmp_path):
    texts = {"study": STUDY, "random": RANDOM, "paper": PAPER, "published": PUBLISHED}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return [tmp_path / f"{name}.csv" for name in texts]


def cells(table):
    head, rule, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    assert set(rule) == {"---"} and {len(row) for row in rows} == {len(head)}
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_ends_are_those_of_the_last_evaluation(files):
    first, *_ = rows = cells(tables.ends(files[0]))
    assert [first[name] for name in ("task", "variant", "seeds", "mean", "std")] == [
        "A-v5",
        "clip",
        "2",
        "20.0",
        "10.0",
    ]
    assert (first["lowest"], first["highest"]) == ("10.0", "30.0")
    assert [row["mean"] for row in rows] == ["20.0", "-5.0", "-4.0", "-3.0"]


def test_differences_have_welchs_interval(tmp_path, files):
    """Beside SciPy's own test of each; one published with the population's deviation, one of a program's runs."""
    published, peer = tmp_path / "known.csv", tmp_path / "peer.csv"
    published.write_text("task,variant,source,num_seeds,step,mean,std\nA,clip,Book,3,90,25,4\nC,clip,Book,3,90,7,1\n")
    files[0].write_text(STUDY + "A-v5,clip,1,95,28,0,1\nA-v5,clip,1,90,32,0,1\nA-v5,clip,1,89,999,0,1\n")  # Mean 30.
    theirs = STUDY.replace("clip", "Other clip").replace("neither", "Other neither").replace("100,30", "100,50")
    peer.write_text(theirs)
    book, *others = cells(tables.differences(files[0], published, peer))
    assert [row["beside"] for row in (book, *others)] == ["Book, 90 steps", *["Other"] * 4]
    equal = next(row for row in others if (row["task"], row["variant"]) == ("B-v1", "clip"))
    assert equal["95 % interval"] == "0 to 0"  # All four runs end alike.
    three = np.array([-1, 0, 1]) * 4 * 1.5**0.5 + 25  # Of which the deviation is 4.
    for row, theirs in ((book, three), (others[0], [10, 50])):
        low, high = scipy.stats.ttest_ind([10, 30], theirs, equal_var=False).confidence_interval()
        assert row["95 % interval"] == f"{low:,.0f} to {high:,.0f}"
        assert row["difference"] == f"{20 - np.mean(theirs):,.0f}"
    one, few = tables.Sample(1, np.nan, 1), tables.Sample(3, 2, 3)
    # Where the next of four draws would be, of which three have a deviation of 2: 4.303 is Student's t of 2 degrees.
    reach = 4.303 * 2 * (4 / 3) ** 0.5
    assert tables.welch(one, few) == pytest.approx((-2 - reach, -2 + reach), rel=1e-3)
    assert tables.welch(few, one) == pytest.approx((2 - reach, 2 + reach), rel=1e-3)
    assert np.isnan(tables.welch(one, one)).all()


def test_scores_are_0_for_random_actions_and_1_for_the_best_variant(files):
    clip, neither = cells(tables.scores(files[0], files[1], files[2]))
    # A: random -20, best 20. B: random -8, best -3.
    assert (clip["A"], clip["B"], clip["score"], clip["runs"]) == ("1.00", "0.80", "0.90", "4")
    assert (neither["A"], neither["B"], neither["score"]) == (f"{15 / 40:.2f}", "1.00", f"{(15 / 40 + 1) / 2:.2f}")
    assert (clip["the paper's score"], neither["the paper's score"]) == ("0.82", "")
    low, high = map(float, clip["95 % interval"].split(" to "))
    # Of A's seeds, 0.75 and 1.25, both alike in one draw of two: a quarter of all draws at either end.
    assert (low, high) == (pytest.approx((0.75 + 0.8) / 2, abs=0.006), pytest.approx((1.25 + 0.8) / 2, abs=0.006))


def test_what_is_not_whole_gets_no_score(files):
    text = STUDY.replace("A-v5,clip,1,100,", "A-v5,clip,1,50,").replace("B-v1,neither,0,100,-2,0,1\n", "")
    files[0].write_text(text.replace("B-v1,neither,1,100,-4,0,1\n", ""))
    clip, neither = cells(tables.scores(files[0], files[1], files[2]))
    # Seed 1 of the clip on A is under way, and nobody knows where it will end.
    assert (clip["A"], clip["B"], clip["score"]) == ("1.00", "1.00", "1.00")
    assert (neither["A"], neither["B"], neither["score"]) == ("0.50", "", "")
    assert [row["steps"] for row in cells(tables.ends(files[0]))] == ["50", "100", "100"]
    files[1].write_text("env,mean_return\nA-v5,-20\nB-v1,-4\n")
    with pytest.raises(ValueError, match="on B-v1 no variant is better than random"):
        tables.scores(files[0], files[1], files[2])


def test_published_returns_stand_beside_those_of_their_task(files):
    rows = cells(tables.published(files[0], files[3]))
    assert [(row["task"], row["mean"]) for row in rows] == [
        ("A-v5", "20"), ("A-v5", "-5"), ("A-v5", "25"), ("B-v1", "-4"), ("B-v1", "-3"), ("B-v1", "-3"),
    ]  # fmt: skip
    assert rows[0]["of"] == "jaxrl, clip, 2 seeds" and rows[0][list(rows[0])[3]] == "10 to 30; 10, 30"
    assert rows[2]["of"] == "Book, v2, 3 seeds" and "+- 4" in rows[2][list(rows[2])[3]]


UNMARKED = {
    "docs/results.md": [],
    "docs/rloo.md": [],
    "docs/benchmark.md": ["| what | what it did, in turn |"],
    "docs/on_device.md": [
        "| when | what | bytes |",
        "| devices | environments | hosts are connected by | gather | gradients | waiting | an update | steps/s | "
        "of D times one |",
        "| backend | tasks | needs |",
    ],
    "README.md": [
        "| CartPole-v1 | HalfCheetah-v5 | Hopper-v5 | Walker2d-v5 | Ant-v5 |",
        "| flags | what is maximised, or minimised | kernel |",
        "| folder in `jaxrl/` | what lives there |",
    ],
}


@pytest.mark.parametrize("page", UNMARKED)
def test_the_pages_are_as_their_command_redraws_them(page):
    text = (ROOT / page).read_text()
    assert tables.redrawn(text) == text
    forged = tables.MARKED.sub(lambda found: found[1] + found[3].replace("1", "2"), text)
    assert forged != text and tables.redrawn(forged) == text
    bare = tables.MARKED.sub(lambda found: f"<!-- table: {found[2]} -->\n", text)  # No table is there yet.
    assert len(bare) < len(text) and tables.redrawn(bare) == text
    # No other table has figures: each is under its mark, or says in words what was tried.
    heads = re.findall(r"(?m)^(\|.*\|)\n\|-", tables.MARKED.sub("", text))
    assert heads == UNMARKED[page]


def test_the_tests_that_a_page_names_are_there():
    for row in read_rows(ROOT / "experiments" / "results" / "oracles.csv"):
        file, name = row["test"].strip("`").split("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(), row["test"]


def test_a_page_that_cannot_be_redrawn_is_named(tmp_path, monkeypatch, capsys):
    (page := tmp_path / "page.md").write_text("<!-- table: ends no.csv -->\n\n| a |\n")
    monkeypatch.setattr(sys, "argv", ["tables.py", str(page)])
    with pytest.raises(SystemExit, match="2"):
        tables.main()
    assert re.fullmatch(r"tables.py: .*page.md cannot be redrawn: FileNotFoundError.*\n", capsys.readouterr().err)
    assert page.read_text().endswith("| a |\n")


class Paying(gym.Env):
    """Ten steps, each of which pays the action that it was given."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(2, 6, (1,))

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.zeros(1, np.float32), float(action[0]), False, self.at == 10, {}


def test_random_actions_are_uniform_within_the_bounds(tmp_path):
    if "Paying-v0" not in gym.registry:
        gym.register("Paying-v0", Paying)
    measure.random(tmp_path / "random.csv", ["Paying-v0"], 400)
    (row,) = read_rows(tmp_path / "random.csv")
    # Of uniform numbers from 2 to 6, ten at a time: mean 40, standard deviation 4 sqrt(10 / 12).
    assert float(row["mean_return"]) == pytest.approx(40, abs=1)
    assert float(row["std_return"]) == pytest.approx(3.65, abs=0.5)
    with pytest.raises(BadInput, match="CartPole-v1 has no Box"):
        measure.random(tmp_path / "more.csv", ["CartPole-v1"], 2)
