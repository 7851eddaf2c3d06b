"""Videos of episodes: an environment that records its frames, and the recorder that writes them as videos or as one
animation. No JAX here."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from jaxrl.envs.guard import hear_mujoco
from jaxrl.envs.registry import find_spec
from jaxrl.errors import BadInput

ANIMATION_SUFFIXES = ".webp", ".gif"
FRAMES_PER_SECOND = 25
MAX_ANIMATION_WIDTH = 320  # In pixels; a video keeps the environment's own size.


def has_screen() -> bool:
    """Returns whether there is a screen to open a window on."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    return shown or not sys.platform.startswith("linux")


def is_animation(path: Path) -> bool:
    """Returns whether `path` names one animation of all episodes, rather than a folder with a video of each."""
    return path.suffix.lower() in ANIMATION_SUFFIXES


def can_be_recorded(env: str) -> bool:
    """True if the class of an environment says that it draws frames; it is not built for that.

    Args:
      env: a Gymnasium id, registered already.
    """
    try:
        made_by: Any = find_spec(env).entry_point
        if isinstance(made_by, str):
            made_by = gym.envs.registration.load_env_creator(made_by)
        return "rgb_array" in made_by.metadata["render_modes"]
    except Exception:  # A function makes it, or its code does whatever it likes: nothing is known.
        return False


class VideoRecorder:
    """Records the episodes of an environment that it makes: call it for the environment, and `save` at the end.

    `path` is `NAME.webp` or `NAME.gif` for one animation of all episodes, which replaces an older one; else a new
    folder for a video of each, `episode-<k>.mp4`, written while it is played. Every episode with a step is recorded.
    """

    def __init__(self, env: str, path: Path, **make_options: Any) -> None:
        """Checks what can be checked before an episode is played.

        Args:
          env: a Gymnasium id.
          path: where to, as above.
          make_options: for `gymnasium.make`.

        Raises:
          BadInput: the environment is not known or cannot be drawn, the path cannot be written to, or a library is not
            there.
        """
        self._path = path.absolute()  # An environment may move the working folder.
        find_spec(env)
        try:
            import imageio.v3  # noqa: F401
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise BadInput("--video needs imageio: pip install 'jaxrl-kernels[video]'") from error
        _check_path(path)
        if not has_screen():
            os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo's own default is a window.
        _check_drawn(env, make_options)
        self._env, self._make_options = env, make_options
        self._is_animation = is_animation(path)
        self._frames: list[np.ndarray] = []  # Of an animation.
        self._writer: Any = None  # Of the video that is being written.
        self._num_videos, self._per_second = 0, float(FRAMES_PER_SECOND)

    def __call__(self) -> gym.Env[Any, Any]:
        """The environment."""
        return RecordedEnv(make_rendered(self._env, self._make_options), self)

    def add_frame(self, frame: np.ndarray, per_second: float) -> None:
        """Adds a frame, `(height, width, 3)`, to the episode's video, which shows `per_second` of them in a second."""
        self._per_second = per_second
        if self._is_animation:
            by = -(-frame.shape[1] // MAX_ANIMATION_WIDTH)
            height, width = frame.shape[0] // by, frame.shape[1] // by
            boxes = frame[: height * by, : width * by].reshape(height, by, width, by, 3)
            self._frames.append(boxes.mean((1, 3)).round().astype(np.uint8))
            return
        if self._writer is None:
            import imageio

            self._path.mkdir(parents=True, exist_ok=True)
            name = self._path / f"episode-{self._num_videos}.mp4"
            self._writer = imageio.get_writer(name, fps=per_second, macro_block_size=2)
        height, width, _ = frame.shape
        self._writer.append_data(frame[: height // 2 * 2, : width // 2 * 2])  # The codec takes even sizes.

    def end_episode(self) -> None:
        """Ends the episode's video."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._num_videos = None, self._num_videos + 1

    def save(self) -> None:
        """Writes what is not yet written.

        Raises:
          OSError: it cannot be.
        """
        self.end_episode()
        if self._frames:
            import imageio.v3 as imageio

            kind, milliseconds = self._path.suffix.lower(), round(1000 / self._per_second)
            written = imageio.imwrite("<bytes>", np.stack(self._frames), extension=kind, duration=milliseconds, loop=0)
            assert written is not None
            self._path.write_bytes(written)
            self._frames = []


class RecordedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Hands the frames of every episode that has a step to a recorder."""

    def __init__(self, env: gym.Env[Any, Any], recorder: VideoRecorder) -> None:
        super().__init__(env)
        per_second = env.metadata.get("render_fps") or FRAMES_PER_SECOND
        self._every = max(1, round(per_second / FRAMES_PER_SECOND))
        self._per_second = per_second / self._every
        self._recorder, self._steps = recorder, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """A new episode, which is recorded from its first step on."""
        answer = self.env.reset(**options)
        self._recorder.end_episode()
        self._first, self._steps = self._frame(), 0
        return answer

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step, whose frame is recorded where the video has one."""
        answer = self.env.step(action)
        if not self._steps:
            self._recorder.add_frame(self._first, self._per_second)
        self._steps += 1
        if self._steps % self._every == 0:
            self._recorder.add_frame(self._frame(), self._per_second)
        return answer

    def _frame(self) -> np.ndarray:
        with _quietly():
            return np.array(self.env.render())  # A copy: an environment may draw the next one over it.


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps pygame, which prepares for a window also where none is asked for, from complaining of no screen."""
    if has_screen():
        yield
        return
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        del os.environ["SDL_VIDEODRIVER"]


def _check_path(path: Path) -> None:
    if is_animation(path):
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise BadInput(f"--video {path} cannot be written: it must be a file in a folder that is there")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"--video {path} is there already: name a new folder, or a .webp or .gif")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise BadInput(f"--video {path} cannot be written: {there} is not a folder that can be written to")


def _check_drawn(env: str, make_options: dict[str, Any]) -> None:
    """Draws one frame: what is missing for it says so in many ways, all of them late."""
    hear_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried = make_rendered(env, make_options)
            tried.reset(seed=0)
            with _quietly():
                frame = tried.render()
            tried.close()
    except Exception as error:  # Whatever a renderer raises.
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        hint = "without a screen, MuJoCo wants MUJOCO_GL=egl and, on Debian, libegl1 and libgl1-mesa-dri"
        raise BadInput(f"{env} cannot be drawn here: {said[0]}; {hint}") from error
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
        raise BadInput(f"{env} cannot be recorded: it draws no frames of (height, width, 3)")


def make_rendered(env: str, make_options: dict[str, Any]) -> gym.Env[Any, Any]:
    """An environment that draws itself, followed by its model's own camera where it has one: Gymnasium's MuJoCo tasks
    are seen from a place that they leave."""
    made = gym.make(env, render_mode="rgb_array", **make_options)
    renderer = getattr(made.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco

        camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        renderer.camera_id = camera if camera >= 0 else renderer.camera_id
    return made
