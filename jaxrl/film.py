"""Films of episodes: an environment that keeps pictures of itself, and writes them as films or as one animation."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from jaxrl.errors import BadInput
from jaxrl.guard import hear_mujoco
from jaxrl.registry import find_spec

ANIMATIONS = ".webp", ".gif"
PICTURES_PER_SECOND = 25
WIDTH = 320  # Of an animation, at most; a film keeps the environment's own size.


def has_screen() -> bool:
    """Whether there is something to open a window on."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    return shown or not sys.platform.startswith("linux")


def filmed(env: str, path: Path, **make_options: Any) -> Callable[[], gym.Env[Any, Any]]:
    """A factory for one environment that films its episodes.

    Args:
      env: a Gymnasium id.
      path: `NAME.webp` or `NAME.gif` for one animation of all episodes, written when the environment is closed; else a
        new folder, for a film of each, `episode-<k>.mp4`.
      make_options: for `gymnasium.make`.

    Raises:
      BadInput: the environment is not known or cannot be drawn, the folder is not empty, or a library is not there.
    """
    find_spec(env)
    try:
        import imageio.v3  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise BadInput("--video needs imageio: pip install 'jaxrl-kernels[video]'") from error
    if path.suffix in ANIMATIONS:
        if not path.parent.is_dir():
            raise BadInput(f"--video {path}: there is no folder {path.parent} to write it to")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"--video {path} is there already, and not empty: name a new folder, or a .webp or .gif")
    if not has_screen():
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo's default, and pygame's, is a window.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    _check_drawn(env, make_options)
    return lambda: Film(_drawing(env, make_options), path)


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


def _check_drawn(env: str, make_options: dict[str, Any]) -> None:
    """Draws one picture: what is missing for it says so in many ways, all of them late."""
    hear_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tried = _drawing(env, make_options)
            tried.reset(seed=0)
            picture = tried.render()
            tried.close()
    except Exception as error:  # Whatever a renderer raises.
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        hint = "without a screen, MuJoCo wants MUJOCO_GL=egl and, on Debian, libegl1 and libgl1-mesa-dri"
        raise BadInput(f"{env} cannot be drawn here: {said[0]}; {hint}") from error
    if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3):
        raise BadInput(f"{env} cannot be filmed: it draws no pictures of (height, width, 3)")


class Film(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps pictures of every episode that has a step, and writes them at its end."""

    def __init__(self, env: gym.Env[Any, Any], path: Path) -> None:
        super().__init__(env)
        per_second = env.metadata.get("render_fps") or PICTURES_PER_SECOND
        self._every = max(1, round(per_second / PICTURES_PER_SECOND))
        self._per_second = per_second / self._every
        self._path, self._pictures, self._steps, self._films = path, list[np.ndarray](), 0, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """A new episode; what is left of one without an end is written."""
        self._end()
        answer = self.env.reset(**options)
        self._first = self._picture()
        return answer

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step, of which a picture is taken where the film has one."""
        answer = self.env.step(action)
        if not self._steps:
            self._pictures.append(self._first)
        self._steps += 1
        if self._steps % self._every == 0:
            self._pictures.append(self._picture())
        if answer[2] or answer[3]:
            self._end()
        return answer

    def close(self) -> None:
        """Writes what is not yet written."""
        self._end()
        if self._pictures:
            import imageio.v3 as imageio

            milliseconds = round(1000 / self._per_second)
            imageio.imwrite(self._path, np.stack(self._pictures), duration=milliseconds, loop=0)
            self._pictures = []
        super().close()

    def _end(self) -> None:
        if self._steps and self._path.suffix not in ANIMATIONS:
            import imageio.v3 as imageio

            self._path.mkdir(parents=True, exist_ok=True)
            film, self._pictures = np.stack(self._pictures), []
            _, height, width, _ = film.shape
            film = film[:, : height // 2 * 2, : width // 2 * 2]  # The codec takes even sizes.
            name = self._path / f"episode-{self._films}.mp4"
            imageio.imwrite(name, film, fps=self._per_second, macro_block_size=2)
            self._films += 1
        self._steps = 0

    def _picture(self) -> np.ndarray:
        picture: np.ndarray = self.env.render()  # type: ignore[assignment]
        if self._path.suffix not in ANIMATIONS:
            return picture
        by = -(-picture.shape[1] // WIDTH)
        height, width = picture.shape[0] // by, picture.shape[1] // by
        boxes = picture[: height * by, : width * by].reshape(height, by, width, by, 3)
        shrunk: np.ndarray = boxes.mean((1, 3)).round().astype(np.uint8)
        return shrunk
