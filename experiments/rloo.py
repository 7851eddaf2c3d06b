"""Trains a small decoder on a task whose answers can be checked: first on a demonstrator's answers, then by RLOO.

    python experiments/rloo.py --task add --seed 0
    python experiments/rloo.py --resume runs/rloo-add-seed0
    python experiments/rloo.py --start runs/supervised --algo rloo --completions 8

The demonstrator makes the same mistakes again and again. So the decoder learns to make them too, and its own likeliest
answers are right for a third of the questions. RLOO then draws several answers to each question, and all it is told is
which of them are right.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sequences.decoder import Decoder, DecoderPolicy
from sequences.learning import COLUMNS, reinforce_update, stacked, supervised_update
from sequences.tasks import CHARACTERS, END, TASKS

from jaxrl.algos.rloo import RLOOConfig, RLOOState, rloo_init, rloo_update
from jaxrl.algos.sampling import sample_completions
from jaxrl.data.completions import Completions
from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.errors import BadInput
from jaxrl.loggers.console import Console, Display
from jaxrl.loggers.csv_files import CsvFiles
from jaxrl.loggers.logger import Clock, Evaluation, Loggers
from jaxrl.loggers.metrics import MetricsBuffer
from jaxrl.loggers.tensorboard import TensorBoard
from jaxrl.runs.checkpoints import Checkpoints
from jaxrl.runs.folder import RunFolder, claim_folder, claim_next_folder
from jaxrl.studies.script import Parser

ALGORITHMS = {
    "rloo": "RLOO",
    "batch_mean": "REINFORCE; the baseline is the mean of all other completions of the batch",
    "reinforce": "REINFORCE without a baseline",
    "supervised": "more of the demonstrations instead",
}
HELP = {
    "--task": f"one of {', '.join(TASKS)}",
    "--digits": "of each number of a sum (3), or of a string to sort (6)",
    "--algo": "; ".join(f"{name}: {words}" for name, words in ALGORITHMS.items()),
    "--seed": "of all that is drawn",
    "--start": "folder of a run whose policy to go on from, instead of supervised steps",
    "--supervised-steps": "steps on demonstrations, before all else",
    "--updates": "updates after these",
    "--prompts": "different questions of an update",
    "--completions": "answers drawn to each",
    "--batch-size": "demonstrations of a supervised step",
    "--supervised-learning-rate": "Adam's, of supervised steps",
    "--learning-rate": "Adam's, of updates",
    "--kl-coef": "what a nat of departure from the start costs, in rewards",
    "--width": "of the decoder",
    "--layers": "of the decoder",
    "--eval-prompts": "questions of an evaluation",
    "--eval-every": "steps between evaluations",
    "--log-every": "steps between rows of metrics",
    "--save-every": "steps between checkpoints",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run; `config.json` keeps them."""

    task: str = "add"
    digits: int | None = None
    algo: str = "rloo"
    seed: int = 0
    start: str | None = None
    supervised_steps: int = 400
    updates: int = 200
    prompts: int = 32
    completions: int = 4
    batch_size: int = 256
    supervised_learning_rate: float = 1e-3
    learning_rate: float = 3e-4
    kl_coef: float = 0.05
    width: int = 96
    layers: int = 2
    eval_prompts: int = 1000
    eval_every: int = 20
    log_every: int = 10
    save_every: int = 50

    def check(self) -> None:
        """Raises BadInput, in one line, for what cannot be."""
        for name, known in (("task", TASKS), ("algo", ALGORITHMS)):
            if getattr(self, name) not in known:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be one of {', '.join(known)}")
        for field in dataclasses.fields(self):
            number, least = getattr(self, field.name), 0 if field.name in ("seed", "supervised_steps", "updates") else 1
            if isinstance(number, int) and number < least:
                raise BadInput(f"{field.name} is {number}: it must be at least {least}")
        if self.completions < 2 and self.algo == "rloo":
            raise BadInput(f"completions is {self.completions}: it must be 2 or more, as each is compared with others")
        if self.digits is not None and self.digits > 9:
            raise BadInput(f"digits is {self.digits}: it must be at most 9")
        if self.width % 4:
            raise BadInput(f"width is {self.width}: it must be a multiple of 4, one part for each head")


class Questions:
    """A task's questions with `settings`, each draw a function of the seed and the step alone.

    Attributes:
      task: the task.
      prompt_length, answer_length: in tokens, the end token included.
      policy: a decoder for them.
    """

    def __init__(self, settings: Settings) -> None:
        make, usual = TASKS[settings.task]
        self.settings, self.task = settings, make(settings.digits or usual)
        few = np.zeros(1, np.int64)
        self.prompt_length, self.answer_length = self.task.prompt(few).shape[1], self.task.answers(few).shape[1]
        size = self.prompt_length + self.answer_length
        self.policy = DecoderPolicy(Decoder(len(CHARACTERS), size, settings.width, settings.layers))

    def demonstrated(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """A batch of prompts with the demonstrator's answers, and the mask of these."""
        rng = np.random.default_rng([self.settings.seed, step])
        questions = self.task.draw(rng, self.settings.batch_size)
        answers = self.task.demonstrations(questions, rng)
        tokens = np.concatenate([self.task.prompt(questions), answers], 1).astype(np.int32)
        return tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= self.prompt_length, tokens.shape)

    def answered(self, params: Any, step: int) -> Completions:
        """Several completions of each of a batch of prompts, with 1 as reward for a right one and 0 for another."""
        rng = np.random.default_rng([self.settings.seed, step])
        each = self.task.draw(rng, self.settings.prompts)
        questions = np.repeat(each, self.settings.completions)
        key = jax.random.fold_in(jax.random.key(self.settings.seed), step)
        completions, right = self._answer(params, key, questions, 1.0)
        group = np.repeat(np.arange(len(each)), self.settings.completions)
        if self.settings.algo == "batch_mean":  # One group, of all.
            group = np.zeros_like(group)
        return completions._replace(reward=right.astype(np.float32), group=group.astype(np.int32))

    def share_right(self, params: Any) -> np.ndarray:
        """The likeliest answers to questions that are held out: for each True if it is right. The questions are always
        the same."""
        questions = self.task.draw(np.random.default_rng(0), self.settings.eval_prompts, held_out=True)
        return self._answer(params, jax.random.key(0), questions, 0.0)[1]

    def _answer(
        self, params: Any, key: jax.Array, questions: np.ndarray, temperature: float
    ) -> tuple[Completions, np.ndarray]:
        prompts = self.task.prompt(questions).astype(np.int32)
        completions = sample_completions(
            self.policy, params, key, prompts, prompts >= 0, self.answer_length, temperature, END
        )
        given = np.asarray(completions.tokens)[:, self.prompt_length :]
        return completions, (given == self.task.answers(questions)).all(1)


def begin(settings: Settings, questions: Questions, started: Any = None) -> RLOOState:
    """The state of a run that begins, with random parameters or those of another run."""
    key = jax.random.key(settings.seed)
    config = RLOOConfig(kl_coef=settings.kl_coef, learning_rate=settings.learning_rate)
    return rloo_init(key, config, questions.policy, questions.policy.init(key) if started is None else started)


def train(settings: Settings, folder: RunFolder, resume: bool) -> float:
    """A whole run, or the rest of one. Gives the share of held-out questions that the last policy answers right."""
    questions = Questions(settings)
    state, saved, checkpoints = begin(settings, questions), dict[str, Any](), Checkpoints(folder.path)
    if resume:
        state, saved, _ = checkpoints.load(like=state)
        checkpoints.tidy_up()
    elif settings.start is not None:
        state = begin(settings, questions, Checkpoints(Path(settings.start)).load(like=state).tree.policy.params)
    folder.write_config({"algo": settings.algo, "env": settings.task, "agent": {}} | dataclasses.asdict(settings))
    supervised_steps = 0 if settings.start is not None else settings.supervised_steps
    total, done = supervised_steps + settings.updates, saved.get("step", 0)
    csv = CsvFiles(folder.path, COLUMNS, saved.get("rows"))
    display = Display(total)
    loggers = Loggers([csv, TensorBoard(folder.path, done if resume else None), Console(display)])
    clock, buffer = Clock(done, saved.get("wall_time", 0.0)), MetricsBuffer(COLUMNS, saved.get("pending", ()))
    began = time.process_time() - saved.get("processor_time", 0.0)
    supervise, update, gather = _programs(settings)
    right = np.zeros(1)

    def evaluate(step: int) -> None:
        nonlocal right
        right = questions.share_right(state.policy.params)
        share = float(right.mean())
        spread = float(right.std()), float(right.min()), float(right.max())
        loggers.evaluation(Evaluation(step, share, *spread, len(right), clock.wall_time))

    if not resume:
        evaluate(0)
    for step in range(done + 1, total + 1):
        if step <= supervised_steps or settings.algo == "supervised":
            state, metrics = supervise(state, *questions.demonstrated(step), settings.supervised_learning_rate)
            if step == supervised_steps and settings.algo != "supervised":
                state = begin(settings, questions, state.policy.params)  # Its optimiser and reference begin here.
        else:
            completions = questions.answered(state.policy.params, step)
            state, metrics = update(state, completions)
            score = float(completions.reward.mean()), int(np.asarray(completions.mask).sum(1).mean())
            loggers.episodes(step, [FinishedEpisode(0, *score)], clock.wall_time)
        buffer.add(gather(metrics))
        if step % settings.log_every == 0:
            buffer.close_row(step, clock.wall_time)
            for row in buffer.rows():
                loggers.metrics(*row)
            loggers.progress(step, clock.steps_per_second(step), clock.wall_time)
        if step % settings.eval_every == 0 or step in (supervised_steps, total):
            evaluate(step)
        if step % settings.save_every == 0 or step in (supervised_steps, total):
            notes = {"step": step, "rows": csv.sync(), "pending": buffer.pending(), "wall_time": clock.wall_time}
            checkpoints.save(state, notes | {"processor_time": time.process_time() - began})
    if done == total:
        right = questions.share_right(state.policy.params)
    took = f"{clock.wall_time:,.0f} s, {time.process_time() - began:,.0f} s of the processor"
    loggers.say(f"{right.mean():.1%} of {len(right):,} held-out questions answered right, after {took}")
    loggers.close()
    return float(right.mean())


def _programs(settings: Settings) -> tuple[Any, Any, Any]:
    """The compiled steps: on demonstrations and on completions; and what makes their metrics one array."""
    learn = reinforce_update if settings.algo == "reinforce" else rloo_update
    return jax.jit(supervised_update, donate_argnums=0), jax.jit(learn, donate_argnums=0), jax.jit(stacked)


def read_settings(folder: Path) -> Settings:
    """The settings of a run that is there."""
    try:
        run = json.loads((folder / "config.json").read_text())["run"]
        return Settings(**{field.name: run[field.name] for field in dataclasses.fields(Settings)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no run that can be resumed: {type(error).__name__}: {error}") from error


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code. After bad input it raises SystemExit with code 2."""
    parser = Parser(description=__doc__)
    for flag, words in HELP.items():
        usual = getattr(Settings, flag[2:].replace("-", "_"))
        kind = int if flag == "--digits" else str if usual is None else type(usual)
        parser.add_argument(flag, type=kind, default=usual, help=f"{words} [{usual}]")
    parser.add_argument("--run-dir", type=Path, help="a new folder for the run")
    parser.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with this run, with its settings")
    given = vars(parser.parse_args(argv))
    named, resumed = given.pop("run_dir"), given.pop("resume")
    try:
        settings = read_settings(resumed) if resumed is not None else Settings(**given)
        settings.check()
        if resumed is not None:
            path = resumed
        elif named is not None:
            path = claim_folder(named)
        else:
            path = claim_next_folder(f"{settings.algo}-{settings.task}-seed{settings.seed}")
        with RunFolder(path) as folder:
            train(settings, folder, resumed is not None)
    except BadInput as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
