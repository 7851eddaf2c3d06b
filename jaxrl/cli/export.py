"""The command that writes a saved policy in the formats of others."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrl.errors import BadInput
from jaxrl.output import say

if TYPE_CHECKING:
    from jaxrl.cli.flags import ExportFlags


def export(flags: "ExportFlags") -> None:
    """Writes the files that the flags name; BadInput where it cannot, with nothing written."""
    from jaxrl.storage.files import write_atomically
    from jaxrl.storage.onnx_export import to_onnx
    from jaxrl.storage.policy import load_policy
    from jaxrl.storage.stablehlo_export import to_stablehlo

    wanted = {"onnx": (flags.onnx, to_onnx), "stablehlo": (flags.stablehlo, to_stablehlo)}
    files = {name: Path(file) for name, (file, _) in wanted.items() if file is not None}
    if not files:
        raise BadInput("there is nothing to write: say --onnx FILE, --stablehlo FILE, or both")
    for name, path in files.items():
        if not path.parent.is_dir() or (path.exists() and not path.is_file()):
            raise BadInput(f"--{name} {path} cannot be written: it must be a file in a folder that exists")
        if path.name in ("policy.npz", "policy.json"):
            raise BadInput(f"--{name} {path} would replace a policy's own file: name another")
    if len({*files.values()}) < len(files):
        raise BadInput("--onnx and --stablehlo name the same file: each needs its own")
    policy = load_policy(flags.run_dir, networks=flags.networks)
    contents = {path: wanted[name][1](policy) for name, path in files.items()}
    for path, content in contents.items():
        write_atomically(path, lambda file, content=content: file.write(content))
        say(f"{path}: {len(content):,} bytes, {policy.notes['action']} actions for {policy.env}", sys.stdout)
