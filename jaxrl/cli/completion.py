"""Completion of the command line, as a script for bash or zsh: commands, their flags, and the values of some."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence, Set
from typing import Any, Literal, get_args, get_origin

from jaxrl.cli.values import flag_kinds
from jaxrl.errors import BadInput

SHELLS = "bash", "zsh"
SCRIPT = """_jaxrl() {
    local current=${COMP_WORDS[COMP_CWORD]} choices=
    if ((COMP_CWORD == 1)); then
        choices="%(commands)s"
    elif [[ $current == -* ]]; then
        case ${COMP_WORDS[1]} in
%(flags)s
        esac
    else
        case ${COMP_WORDS[COMP_CWORD - 1]} in
%(values)s
        esac
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
}
complete -o default -F _jaxrl jaxrl"""


def completion(shell: str, commands: Sequence[str], parsers: dict[str, Callable[[Sequence[str], str], Any]]) -> str:
    """The script that `eval "$(jaxrl completion bash)"` reads. Where it offers nothing, the shell offers files.

    Args:
      shell: bash or zsh.
      commands: all of them.
      parsers: of those whose flags their `--help` says.

    Raises:
      BadInput: another shell.
    """
    if shell not in SHELLS:
        raise BadInput(f"there is no completion for {shell!r}: it must be {' or '.join(SHELLS)}")
    from jaxrl.cli.flags import EvaluateFlags, ExportFlags, command_flags, train_flags
    from jaxrl.runs.algorithms import BUILT_IN
    from jaxrl.runs.config import default_run
    from jaxrl.runs.presets import CLASSIC, MUJOCO

    kinds: dict[str, Any] = {}
    for algo in BUILT_IN:
        kinds |= flag_kinds(type(train_flags(default_run(algo, "CartPole-v1"))))
    flags = {"train": _flags(kinds)}
    for name, each in {"evaluate": EvaluateFlags, "export": ExportFlags}.items():
        flags[name] = _flags(flag_kinds(command_flags(each)), {"run_dir"})
    flags |= {name: _flags_of(parse, name) for name, parse in parsers.items()}
    values = {"--algo": list(BUILT_IN), "--env|--eval-env": sorted([*CLASSIC, *MUJOCO])}
    values["--logger"] = ["wandb", "mlflow"]
    values |= {_flag(name): list(get_args(kind)) for name, kind in kinds.items() if get_origin(kind) is Literal}
    script = SCRIPT % {
        "commands": " ".join(commands),
        "flags": _cases(flags),
        "values": _cases({name: list(map(str, choices)) for name, choices in values.items()}),
    }
    return f"autoload -Uz bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _cases(words: dict[str, list[str]]) -> str:
    return "\n".join(f'            {name}) choices="{" ".join(choices)}" ;;' for name, choices in words.items())


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _flags(kinds: dict[str, Any], positional: Set[str] = frozenset()) -> list[str]:
    """The flags of settings; of a switch both."""
    names = kinds.keys() - positional
    return sorted(["--help", *map(_flag, names), *(_flag(f"no-{name}") for name in names if kinds[name] is bool)])


def _flags_of(parse: Callable[[Sequence[str], str], Any], name: str) -> list[str]:
    """The flags that the help of a command names."""
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        parse(["--help"], f"jaxrl {name}")
    return sorted(set(re.findall(r"(?m)^  (?:-\w, )?(--[a-z-]+)", text.getvalue())))
