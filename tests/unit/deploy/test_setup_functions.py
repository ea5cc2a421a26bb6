"""Functions of setup.sh by themselves: what it asks an administrator for, what it takes and leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.workspace import HERE

NOBODY_MAY_INSTALL = "may_install() { return 1; }"


def sourced(script: str, *, here: Path = HERE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `script` with the functions of setup.sh."""
    parts = (
        "settings",
        "machine",
        "tools",
        "docker",
        "native_database",
        "rabbitmq_release",
        "native_broker",
        "servers",
    )
    sources = "\n".join(f'. "$here/deploy/infrastructure/{part}.sh"' for part in parts)
    return subprocess.run(
        ["bash", "-euc", f'here="{here}" python="{HERE}/.venv/bin/python"\n{sources}\n{script}'],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "INFRASTRUCTURE": "native", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing brought into it yet."""
    shutil.copytree(HERE / "deploy", tmp_path / "deploy")
    for name in ("setup.sh", "config.py", "pyproject.toml", "docker-compose.yml"):
        shutil.copy(HERE / name, tmp_path)
    return tmp_path


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)
    return file


def test_missing_packages_are_asked_for_in_one_line_before_anything_is_started() -> None:
    done = sourced(
        f"""
        {NOBODY_MAY_INSTALL}
        ask() {{ echo away; }}
        native_broker_pid() {{ return 1; }}
        native_database_pid() {{ return 1; }}
        system_bin() {{ :; }}
        debian_mirror() {{ :; }}
        fetched_bin=/nowhere rabbitmq_bin=/nowhere
        read_settings; find_docker
        native_database=/nowhere/native native_broker=/nowhere/native
        check_packages ''
        echo went on
        """,
        PGDATA_PATH="/nowhere",
        RABBITMQ_DATA_PATH="/nowhere",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "'apt-get install -y --no-install-recommends postgresql rabbitmq-server" in done.stderr
    assert "policy-rc.d" not in done.stderr


def test_nothing_is_asked_for_where_the_servers_answer_already() -> None:
    done = sourced(
        f"{NOBODY_MAY_INSTALL}; ask() {{ echo ready; }}; rabbitmq_bin=/nowhere; read_settings; find_docker;"
        "check_packages '' && echo went on"
    )
    assert done.stdout == "went on\n", done.stderr


def test_a_python_without_venv_and_pip_is_one_line_and_nothing_is_touched(checkout: Path) -> None:
    bare = checkout / "bin"
    program(bare, "id", "echo 1000")
    program(
        bare,
        "python3",
        'case "$*" in *ensurepip* | *" pip "* | *venv*) exit 1 ;; *_base_executable*) echo "$0" ;; esac',
    )
    for name in ("bash", "cat", "dirname", "flock", "head", "mkdir", "rm", "sed", "sort", "stat", "tail"):
        found = shutil.which(name)
        assert found
        (bare / name).symlink_to(found)
    before = {path.name for path in checkout.iterdir()}
    done = subprocess.run(
        [bare / "bash", checkout / "setup.sh"],
        env={"PATH": str(bare), "HOME": "/nowhere"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("\n") == 1, done.stdout + done.stderr
    assert "apt-get install -y --no-install-recommends python3-venv" in done.stderr
    assert {path.name for path in checkout.iterdir()} == {*before, ".tools"}
    assert [path.suffix for path in (checkout / ".tools").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("0.4.30", "uv"),
        ("0.10.0", "uv"),
        ("1.0.0 (abc 2030-01-01)", "uv"),
        ("0.4.29", "own"),
        ("0.2.37", "own"),
    ],
)
def test_a_uv_older_than_the_lock_file_is_passed_by(checkout: Path, version: str, taken: str) -> None:
    program(checkout / "bin", "uv", f"echo 'uv {version}'")
    (checkout / ".tools").mkdir()
    done = sourced(
        'bring_uv() { echo brought; }; find_uv; echo "$uv"',
        here=checkout,
        PATH=f"{checkout}/bin:{os.environ['PATH']}",
    )
    own = f"{checkout}/.tools/uv/bin/uv"
    assert done.stdout.splitlines()[-1] == {"uv": "uv", "own": own}[taken], done.stderr


def test_the_packaged_broker_that_we_install_is_left_disabled(checkout: Path) -> None:
    (checkout / ".tools").mkdir()
    program(checkout / "bin", "systemctl", "exit 1")
    program(checkout / "bin", "update-rc.d", "exit 1")
    done = sourced(
        f"""
        as_root() {{ echo "$*" >>"{checkout}/calls"; [ "$1" = rm ]; }}
        apt_install() {{ echo "install $*" >>"{checkout}/calls"; }}
        rabbitmq_bin=/nowhere
        install_rabbitmq
        """,
        here=checkout,
        PATH=f"{checkout}/bin:{os.environ['PATH']}",
        RABBITMQ_RELEASE="installed",
    )
    assert done.returncode == 0, done.stderr
    *calls, removed = (checkout / "calls").read_text().splitlines()
    assert calls == [
        "install rabbitmq-server",
        "systemctl disable rabbitmq-server",
        "update-rc.d rabbitmq-server disable",
    ]
    assert re.fullmatch(r"rm -f /etc/systemd/system/\S+\.wants/rabbitmq-server\.service", removed)


def test_an_installed_broker_is_left_as_it_is(checkout: Path) -> None:
    program(checkout / "rabbitmq", "rabbitmq-server", "")
    done = sourced(
        'apt_install() { echo called; }; rabbitmq_bin="$here/rabbitmq"; install_rabbitmq',
        here=checkout,
        RABBITMQ_RELEASE="installed",
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_data_in_the_checkout_is_passed_by_by_git_and_linters(checkout: Path) -> None:
    data = checkout / "data of another pair"
    (data / "native").mkdir(parents=True)
    (data / "native/broken.py").write_text("def\n")
    outside = checkout.parent / "outside"
    outside.mkdir(exist_ok=True)
    done = sourced(f'hide_from_tools "{data}" "{outside}"', here=checkout)
    assert done.returncode == 0, done.stderr
    assert not list(outside.iterdir())
    subprocess.run(["git", "init", "-q", checkout], check=True)
    status = subprocess.run(
        ["git", "-C", checkout, "status", "--short", "-uall"], capture_output=True, text=True, check=True
    ).stdout
    assert "another pair" not in status
    for tool in (["ruff", "check", "-q", "."], ["mypy", "--follow-imports=silent"]):
        (checkout / "deploy/__init__.py").touch()
        checked = subprocess.run(
            [HERE / ".venv/bin" / tool[0], *tool[1:]],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "broken.py" not in checked.stdout + checked.stderr


def test_the_version_is_that_of_the_project() -> None:
    done = subprocess.run([HERE / "setup.sh", "--version"], capture_output=True, text=True, check=True)
    declared = re.search(r'^version = "(.*)"$', (HERE / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert done.stdout == f"blackbird {declared[1]}\n"


@pytest.mark.parametrize(
    ("data", "version", "expected"),
    [
        ("3.10", "3.10", True),
        ("3.10", "4.0", False),
        ("3.12", "4.3", False),
        ("3.13", "4.0", True),
        ("3.13", "4.3", False),
        ("4.0", "4.3", False),
        ("4.2", "4.3", True),
        ("4.0", "3.10", False),
        ("4.3", "4.0", False),
        ("4.3", "4.3", True),
    ],
)
def test_which_release_goes_on_with_the_data_of_which(data: str, version: str, expected: bool) -> None:
    done = sourced(f"can_go_on {data} {version}")
    assert (done.returncode == 0) is expected, done.stderr


def test_data_without_a_release_is_known_by_its_feature_flags(tmp_path: Path) -> None:
    def version() -> str:
        return sourced(f"version_of_data {tmp_path}").stdout

    assert version() == ""
    (tmp_path / "mnesia").mkdir()
    (tmp_path / "mnesia/node").touch()
    (tmp_path / "feature_flags").write_text("[quorum_queue,stream_queue].\n")
    assert version() == "3.10"
    (tmp_path / "feature_flags").write_text("[message_containers,quorum_queue].\n")
    assert version() == "3.13"
    (tmp_path / "release").write_text("4.0")
    assert version() == "4.0"


def test_data_of_an_older_broker_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "mnesia").mkdir()
    (tmp_path / "mnesia/node").touch()
    (tmp_path / "release").write_text("3.10")
    programs = tmp_path / "programs"
    (programs / "bin").mkdir(parents=True)
    (programs / "lib/rabbitmq_server-4.0.5").mkdir(parents=True)
    done = sourced(f"rabbitmq_bin={programs}/bin; check_release {tmp_path}; echo went on")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        f"the broker's data in {tmp_path} is of RabbitMQ 3.10, which RabbitMQ 4.0 cannot start on"
        in done.stderr
    )
    assert "RABBITMQ_RELEASE=3.10 ./setup.sh" in done.stderr
