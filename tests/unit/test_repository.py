"""What git holds of this repository: all that the documented commands need, and nothing of one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.lockfile_filter import without_addresses

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")

COMMANDS = (
    "setup.sh",
    "start_microservice.sh",
    "run_tests.sh",
    ".ci/run",
    "deploy/infrastructure/test_tools.sh",
)
FILES = (
    *COMMANDS,
    "market_data_collector_service.py",
    "data_storage_service.py",
    "monitor_service.py",
    "signal_service.py",
    "trading_engine_service.py",
    "config.py",
    "variables.env",
    "docker-compose.yml",
    "deploy/init.sql",
    "pyproject.toml",
    "uv.lock",
    "README.md",
)

# Package indexes and the like, in two halves so that this file does not name them itself.
REGISTRIES = [
    f"{name}.{domain}"
    for name, domain in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("crates", "io"),
        ("deb.debian", "org"),
        ("snapshot.debian", "org"),
        ("proxy.golang", "org"),
        ("rubygems", "org"),
        ("ghcr", "io"),
        ("quay", "io"),
    )
]

SECRETS = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an API key or secret with a value": re.compile(
        r"\bAPI_(?:KEY|SECRET)[\"']?\s*[=:]\s*[\"']?(?=[A-Za-z0-9+/_-]*\d)[A-Za-z0-9+/_-]{12,}"
    ),
    "a password in an address": re.compile(r"\b[a-z]+://[^\s/:@{}$]+:(?!guest@)[^\s/:@{}$]+@"),
    "a cloud access key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a token of a code host": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}\b"),
}

LOCK = """\
version = 1
requires-python = ">=3.11"

[[package]]
name = "blackbird"
version = "0.1.0"
source = { virtual = "." }
dependencies = [
    { name = "idna" },
]

[package.metadata]
requires-dist = [{ name = "idna", specifier = "==3.20" }]

[package.metadata.requires-dev]
dev = [
    { name = "pytest", specifier = "==9.2.0" },
]

[[package]]
name = "idna"
version = "3.20"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://index.example/idna-3.20.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://index.example/idna-3.20-py3-none-any.whl", hash = "sha256:11", size = 2 },
]
"""
KEPT = """\
version = 1
requires-python = ">=3.11"

[[package]]
name = "blackbird"
version = "0.1.0"
source = { virtual = "." }
dependencies = [
    { name = "idna" },
]

[[package]]
name = "idna"
version = "3.20"
source = { registry = "." }
"""


def git(*arguments: str, folder: Path = ROOT) -> str:
    """Run git without the settings of this machine, nor of a git that may have started the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_OPTIONAL_LOCKS": "0"}
    # A clone may belong to another user than the one who runs the tests.
    command = ["git", "-c", f"safe.directory={folder}", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def repository_texts() -> dict[str, str]:
    """Return what is tracked or would be with the next `git add`, as git would store it."""
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    texts = {}
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            texts[name] = without_addresses(text) if name == "uv.lock" else text
    return texts


def found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}: {match.group()}"
        for name, text in repository_texts().items()
        for match in pattern.finditer(text)
    ]


def test_everything_that_the_documented_commands_need_is_tracked() -> None:
    tracked = set(git("ls-files").splitlines())
    assert sorted(set(FILES) - tracked) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_executable_in_a_clone(name: str) -> None:
    assert git("ls-files", "--stage", "--", name).split()[0] == "100755"


def test_what_git_holds_of_the_lock_file_names_no_address() -> None:
    lock = git("show", ":uv.lock")
    # The first of these would be missing from a file that is not a lock file at all.
    assert lock.count("[[package]]") > 20
    for address in ("://", "sdist", "wheels", "package.metadata", "hash ="):
        assert address not in lock
    assert set(re.findall(r"registry = \"([^\"]*)\"", lock)) == {"."}
    assert without_addresses(lock) == lock


def test_the_lock_file_pins_what_the_project_asks_for() -> None:
    lock = git("show", ":uv.lock")
    pinned = re.findall(
        r"^    \"([a-z0-9-]+)==([^\"]+)\",$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert len(pinned) > 10
    for name, version in pinned:
        assert f'name = "{name}"\nversion = "{version}"\n' in lock


def test_every_dependency_is_pinned_exactly() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev|deployment) = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert len(lists) == 3
    for line in "".join(lists).splitlines():
        assert re.fullmatch(r"    \"[a-z0-9-]+==[0-9][0-9a-z.]*\",", line), line


def test_the_filter_keeps_versions_and_drops_addresses() -> None:
    assert without_addresses(LOCK) == KEPT
    assert without_addresses(KEPT) == KEPT


def test_the_filter_drops_empty_file_lists_and_several_sources() -> None:
    source = '{ name = "b", source = { registry = "%s" } }'
    lock = f'[[package]]\nname = "a"\nwheels = []\ndependencies = [\n    {source % "x://y"},\n]\n'
    assert without_addresses(lock) == f'[[package]]\nname = "a"\ndependencies = [\n    {source % "."},\n]\n'


def test_setup_has_installed_the_filter() -> None:
    assert git("config", "--get", "filter.uvlock.clean").strip() == "python3 deploy/lockfile_filter.py"
    assert git("check-attr", "filter", "uv.lock").strip() == "uv.lock: filter: uvlock"


def test_git_sees_no_change_in_a_lock_file_that_uv_has_completed(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("deploy/lockfile_filter.py", ".gitattributes"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    lock = tmp_path / "uv.lock"
    lock.write_text(LOCK)
    git("init", "--quiet", folder=tmp_path)
    git("config", "filter.uvlock.clean", "python3 deploy/lockfile_filter.py", folder=tmp_path)
    git("add", ".", folder=tmp_path)
    assert git("show", ":uv.lock", folder=tmp_path) == KEPT

    lock.write_text(KEPT)
    assert git("diff", "--stat", folder=tmp_path) == ""
    lock.write_text(LOCK.replace("3.20", "3.21"))
    assert "uv.lock" in git("diff", "--stat", folder=tmp_path)


def test_no_registry_is_named() -> None:
    pattern = re.compile("|".join(map(re.escape, REGISTRIES)))
    assert pattern.search("https://files." + REGISTRIES[1])
    assert found(pattern) == []


def test_no_path_of_this_machine_is_named() -> None:
    places = [str(ROOT), str(ROOT.parent / "shared")]
    pattern = re.compile("|".join(map(re.escape, places)) + r"|/(?:home|Users)/[a-z]\w+")
    assert pattern.search(f"see {ROOT}/README.md")
    assert found(pattern) == []


def test_no_secret_is_in_the_repository() -> None:
    examples = [
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "API_SECRET=" + "k3" * 10,
        "amqp://trader" + ":hunter2@broker",
        "AKIA" + "A1" * 8,
        "ghp" + "_" + "a1" * 18,
    ]
    for pattern, example in zip(SECRETS.values(), examples, strict=True):
        assert pattern.search(example)
    assert {what: found(pattern) for what, pattern in SECRETS.items() if found(pattern)} == {}


def test_what_tools_and_services_leave_is_ignored() -> None:
    left = (
        ".venv/x",
        ".tools/x",
        "pgdata/x",
        "rabbitmq_data/x",
        "prometheus_data/x",
        "journal/x",
        "logs/x.log",
        ".env",
        "__pycache__/x",
    )
    assert git("check-ignore", *left).split() == list(left)
    assert subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", "config.py"], check=False).returncode == 1


@pytest.fixture
def stubbed(tmp_path: Path) -> Path:
    """The test scripts among stand-ins, which write down how they were called and fail as `broken` says."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "deploy/infrastructure").mkdir(parents=True)
    for name in ("run_tests.sh", ".ci/run"):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = (f".venv/bin/{tool}" for tool in ("ruff", "mypy", "lint-imports", "python"))
    for name in ("setup.sh", "deploy/infrastructure/test_tools.sh", *tools):
        stub = tmp_path / name
        stub.write_text(
            "#!/bin/sh\nread line && exit 9\n"
            f'echo "{stub.name} $*" >> calls\nenv > environment\n[ "$(cat broken)" != {stub.name} ]\n'
        )
        stub.chmod(0o755)
    return tmp_path


def test_the_test_script_sets_up_checks_and_hands_its_arguments_to_pytest(stubbed: Path) -> None:
    def calls(script: str, *arguments: str, broken: str = "") -> tuple[int, list[str]]:
        (stubbed / "calls").write_text("")
        (stubbed / "broken").write_text(broken)
        command = [str(stubbed / script), *arguments]
        status = subprocess.run(command, cwd="/", input=b"yes\n", check=False).returncode
        return status, (stubbed / "calls").read_text().splitlines()

    again = "--reruns 1 --max-suite-reruns 5 --rerun-show-tracebacks"
    pytest = f"python -m pytest -n 3 --dist loadfile {again}"
    checks = [
        "setup.sh ",
        "test_tools.sh ",
        "ruff check .",
        "ruff format --check .",
        "mypy ",
        "lint-imports ",
    ]
    assert calls("run_tests.sh", "-k", "a b") == (
        0,
        [*checks, f"{pytest} -k a b"],
    )
    assert calls(".ci/run") == (0, [*checks, pytest])
    assert calls("run_tests.sh", broken="python") == (1, [*checks, pytest])
    assert calls("run_tests.sh", broken="mypy") == (1, checks[:5])
    assert calls(".ci/run", broken="setup.sh") == (1, checks[:1])


def test_the_tests_see_nothing_of_the_callers_environment_but_what_they_need(stubbed: Path) -> None:
    (stubbed / "broken").write_text("")
    needed = {
        "BLACKBIRD_SHARED": "../elsewhere",
        "HYPOTHESIS_PROFILE": "long",
        "HTTPS_PROXY": "http://proxy:1",
        "PIP_INDEX_URL": "http://index/simple",
        "POSTGRES_PORT": "5440",
        "HOME": "/home of mine",
    }
    harmful = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": "/x",
        "LOG_LEVEL": "DEBUG",
        "PYTEST_ADDOPTS": "-x",
        "TMUX": "x",
    }
    subprocess.run([stubbed / "run_tests.sh"], env={**os.environ, **needed, **harmful}, check=True)
    lines = (stubbed / "environment").read_text().splitlines()
    assert {f"{name}={value}" for name, value in needed.items()} <= set(lines)
    assert not [line for line in lines if line.partition("=")[0] in {*harmful, "BLACKBIRD_CLEAN"}]
