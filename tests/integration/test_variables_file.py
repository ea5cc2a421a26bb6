"""`variables.env` means the same to Python, bash and `docker compose --env-file`: one table of lines.

Compose's rules:
https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/#env-file-syntax
What is written there is the expectation here; where compose is installed it is asked itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from config import InvalidSetting, read_variables
from tests.support.workspace import HERE

# A setting that may be anything, nothing included.
NAME = "POSTGRES_BIN_PATH"

SAME = {
    "plain": ("N=v", "v"),
    "blanks at the end": ("N=v  ", "v"),
    "blanks before": ("  N=v", "v"),
    "blanks around the sign": ("N = v", "v"),
    "blank inside": ("N=a b", "a b"),
    "export": ("export N=v", "v"),
    "export with blanks": ("export   N=v", "v"),
    "single quotes": ("N='v'", "v"),
    "double quotes": ('N="v"', "v"),
    "empty": ("N=", ""),
    "empty in single quotes": ("N=''", ""),
    "empty in double quotes": ('N=""', ""),
    "comment line": ("# N=x\nN=v\n  # N=y", "v"),
    "empty lines": ("\n\nN=v\n\n", "v"),
    "comment after a blank": ("N=v # note", "v"),
    "number sign without a blank": ("N=a#b", "a#b"),
    "value that begins with a number sign": ("N=#v", "#v"),
    "comment after single quotes": ("N='v' # note", "v"),
    "comment after double quotes": ('N="v"  # note', "v"),
    "comment right after quotes": ("N='v'# note", "v"),
    "number sign in single quotes": ("N='a # b'", "a # b"),
    "number sign in double quotes": ('N="a # b"', "a # b"),
    "single quote in double quotes": ('N="it\'s"', "it's"),
    "double quote in single quotes": ("N='say \"x\"'", 'say "x"'),
    "escaped single quote": (r"N='it\'s'", "it's"),
    "escaped double quote": (r'N="say \"x\""', 'say "x"'),
    "quote inside": ("N=a'b", "a'b"),
    "dollar in single quotes": ("N='pa$word${HOME}'", "pa$word${HOME}"),
    "backslash without quotes": (r"N=a\nb", r"a\nb"),
    "backslash in single quotes": (r"N='a\nb'", r"a\nb"),
    "escapes in double quotes": (r'N="a\n\t\\b"', "a\n\t\\b"),
    "two lines in single quotes": ("N='one\ntwo'", "one\ntwo"),
    "two lines in double quotes": ('N="one\ntwo"', "one\ntwo"),
    "equals sign": ("N=a=b", "a=b"),
    "shell's own signs": ("N=a;b&c|d`e*(f)!", "a;b&c|d`e*(f)!"),
    "beyond ASCII": ("N=süß", "süß"),
    "doubled name": ("N=one\nOTHER=x\nN=two", "two"),
    "windows line ends": ("A=1\r\nN=v\r\nB='2'\r\n", "v"),
    "windows line ends and quotes": ("N='v'\r\n", "v"),
    "byte order mark": ("\ufeffN=v", "v"),
}

# What compose reads (None: it refuses the file too), and why nobody may guess which of the two was meant.
REFUSED = {
    "interpolation": ("N=${OTHER-x}", "x"),
    "interpolation in double quotes": ('N="${OTHER-x}"', "x"),
    "dollar": ("N=pa$$word", "pa$word"),
    "doubled backslash in single quotes": (r"N='a\\b'", r"a\\b"),
    "tab before a comment": ("N=v\t# note", "v\t# note"),
    "comment in place of a value": ("N= # note", "# note"),
    "colon": ("N: v", "v"),
    "quoted name": ("'N'=v", None),
    "blank in the name": ("M N=v", None),
    "open single quote": ("N='v", None),
    "open double quote": ('N="v', None),
    "text after quotes": ("N='a'b'", None),
}


def written(folder: Path, text: str) -> Path:
    file = folder / "variables.env"
    file.write_bytes(text.replace("N", NAME).encode() if "N" in text else text.encode())
    return file


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a checkout as reads settings."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(HERE / "config.py", folder)
    shutil.copytree(HERE / "deploy", folder / "deploy")
    (folder / ".venv").symlink_to(HERE / ".venv")
    return folder


def as_bash_reads(checkout: Path) -> str | None:
    script = f"""
        here={checkout} python={HERE}/.venv/bin/python
        . "$here/deploy/infrastructure/settings.sh"
        read_settings
        printf %s "${NAME}"
    """
    done = subprocess.run(
        ["bash", "-euc", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    assert "variables.env line 1: " in done.stderr
    return None


@pytest.mark.parametrize(("text", "value"), SAME.values(), ids=SAME)
def test_python_and_bash_read_the_same(checkout: Path, text: str, value: str) -> None:
    assert read_variables(written(checkout, text))[NAME] == value
    assert as_bash_reads(checkout) == value


@pytest.mark.parametrize("text", [text for text, _ in REFUSED.values()], ids=REFUSED)
def test_a_line_with_two_meanings_is_refused_by_its_number(checkout: Path, text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^variables\.env line 1: ") as refusal:
        read_variables(written(checkout, text))
    assert "note" not in str(refusal.value)
    assert as_bash_reads(checkout) is None


@pytest.mark.parametrize(("text", "value"), [*SAME.values(), *REFUSED.values()], ids=[*SAME, *REFUSED])
def test_compose_reads_the_same(tmp_path: Path, text: str, value: str | None) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("no docker compose")
    file = written(tmp_path, text)
    project = tmp_path / "docker-compose.yml"
    project.write_text(f"services: {{one: {{image: x, environment: {{V: '[${{{NAME}-unset}}]'}}}}}}\n")
    done = subprocess.run(
        [*command, "--env-file", file, "-f", project, "config", "--format", "json"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if value is None:
        assert done.returncode != 0
        return
    assert done.returncode == 0, done.stderr
    # Its output is a compose file again, in which a dollar is written twice.
    read = json.loads(done.stdout)["services"]["one"]["environment"]["V"].replace("$$", "$")
    assert read == f"[{value}]"


def compose_command() -> list[str] | None:
    """Docker's plugin or the program of its own; neither needs an engine to read a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        program = shutil.which(command[0])
        if (
            program
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return [program, *command[1:]]
    return None
