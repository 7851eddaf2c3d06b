"""Films of episodes: an environment that takes pictures of itself, and who writes them as films or as one animation."""

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

ANIMATIONS = ".webp", ".gif"
PICTURES_PER_SECOND = 25
WIDTH = 320  # Of an animation, at most; a film keeps the environment's own size.


def has_screen() -> bool:
    """Whether there is something to open a window on."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    return shown or not sys.platform.startswith("linux")


def is_animation(path: Path) -> bool:
    """Whether what is filmed to `path` is one animation, rather than a film of each episode."""
    return path.suffix.lower() in ANIMATIONS


class Camera:
    """Films the episodes of an environment that it makes: call it for the environment, and `save` at the end.

    `path` is `NAME.webp` or `NAME.gif` for one animation of all episodes, which replaces an older one; else a new
    folder for a film of each, `episode-<k>.mp4`, written while it is played. Every episode with a step is filmed.
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
        self._shrinks = is_animation(path)
        self._pictures: list[np.ndarray] = []  # Of an animation.
        self._writer: Any = None  # Of the film that is being taken.
        self._films, self._per_second = 0, float(PICTURES_PER_SECOND)

    def __call__(self) -> gym.Env[Any, Any]:
        """The environment."""
        return Filmed(_drawing(self._env, self._make_options), self)

    def take(self, picture: np.ndarray, per_second: float) -> None:
        """Adds a picture to the episode's film, of which so many are shown in a second."""
        self._per_second = per_second
        if self._shrinks:
            by = -(-picture.shape[1] // WIDTH)
            height, width = picture.shape[0] // by, picture.shape[1] // by
            boxes = picture[: height * by, : width * by].reshape(height, by, width, by, 3)
            self._pictures.append(boxes.mean((1, 3)).round().astype(np.uint8))
            return
        if self._writer is None:
            import imageio

            self._path.mkdir(parents=True, exist_ok=True)
            name = self._path / f"episode-{self._films}.mp4"
            self._writer = imageio.get_writer(name, fps=per_second, macro_block_size=2)
        height, width, _ = picture.shape
        self._writer.append_data(picture[: height // 2 * 2, : width // 2 * 2])  # The codec takes even sizes.

    def cut(self) -> None:
        """Ends the episode's film."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._films = None, self._films + 1

    def save(self) -> None:
        """Writes what is not yet written.

        Raises:
          OSError: it cannot be.
        """
        self.cut()
        if self._pictures:
            import imageio.v3 as imageio

            kind, milliseconds = self._path.suffix.lower(), round(1000 / self._per_second)
            written = imageio.imwrite(
                "<bytes>", np.stack(self._pictures), extension=kind, duration=milliseconds, loop=0
            )
            assert written is not None
            self._path.write_bytes(written)
            self._pictures = []


class Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Hands the pictures of every episode that has a step to a camera."""

    def __init__(self, env: gym.Env[Any, Any], camera: Camera) -> None:
        super().__init__(env)
        per_second = env.metadata.get("render_fps") or PICTURES_PER_SECOND
        self._every = max(1, round(per_second / PICTURES_PER_SECOND))
        self._per_second = per_second / self._every
        self._camera, self._steps = camera, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """A new episode, which is filmed from its first step on."""
        answer = self.env.reset(**options)
        self._camera.cut()
        self._first, self._steps = self._picture(), 0
        return answer

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step, of which a picture is taken where the film has one."""
        answer = self.env.step(action)
        if not self._steps:
            self._camera.take(self._first, self._per_second)
        self._steps += 1
        if self._steps % self._every == 0:
            self._camera.take(self._picture(), self._per_second)
        return answer

    def _picture(self) -> np.ndarray:
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
        raise BadInput(f"--video {path} cannot be written: {there} is no folder that can be written to")


def _check_drawn(env: str, make_options: dict[str, Any]) -> None:
    """Draws one picture: what is missing for it says so in many ways, all of them late."""
    hear_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried = _drawing(env, make_options)
            tried.reset(seed=0)
            with _quietly():
                picture = tried.render()
            tried.close()
    except Exception as error:  # Whatever a renderer raises.
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        hint = "without a screen, MuJoCo wants MUJOCO_GL=egl and, on Debian, libegl1 and libgl1-mesa-dri"
        raise BadInput(f"{env} cannot be drawn here: {said[0]}; {hint}") from error
    if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3):
        raise BadInput(f"{env} cannot be filmed: it draws no pictures of (height, width, 3)")


def _drawing(env: str, make_options: dict[str, Any]) -> gym.Env[Any, Any]:
    """An environment that draws itself, followed by its model's own camera where it has one: Gymnasium's MuJoCo tasks
    are seen from a place that they leave."""
    made = gym.make(env, render_mode="rgb_array", **make_options)
    renderer = getattr(made.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco

        camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        renderer.camera_id = camera if camera >= 0 else renderer.camera_id
    return made
