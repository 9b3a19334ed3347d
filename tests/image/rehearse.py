"""Builds the image and starts the compose file without a container engine: in a fresh Debian 12, by debootstrap and chroot.

    sudo python -m tests.image.rehearse FOLDER [--torch-pip-args "..."] [--bind PATH[:INSIDE] ...] [--env NAME[=VALUE] ...]

The Dockerfile's own steps run in their order, each stage in a root of its own; then each service of compose.yaml runs with its
command, environment, mounts, user and read-only root: the daemon from the last layer alone, Prometheus and Alertmanager as Debian
packages them. Grafana, which Debian has not, is left out, and so are limits of memory. Then `tests.image.story` goes through it.
FOLDER keeps the roots, so that a second run starts at once.

`--bind` and `--env` hand the build what this machine needs to reach a package index: a mirror's folder, its variables.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.image import story
from tests.image.imagefile import Stage, stages

ROOT = Path(__file__).resolve().parents[2]
TARGET = "cpu"
PROGRAMS = {
    "prometheus": "/usr/bin/prometheus",
    "alertmanager": "/usr/bin/prometheus-alertmanager",
}
NOBODY = "65534:65534"  # whom those images run as; what they start is above
# What a build sees of the repository: all that is not left out.
CONTEXT = tuple(
    line[1:] for line in (ROOT / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
)

Mount = tuple[Path, str, bool]  # what, where inside, whether read-only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch-pip-args", default="")
    parser.add_argument("--bind", action="append", default=[], metavar="PATH[:INSIDE]")
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("tests.image.rehearse: needs root, for chroot and mounts")
    folder: Path = arguments.folder.resolve()
    given = (entry.partition("=") for entry in arguments.env)
    environment = {name: value if says else os.environ[name] for name, says, value in given}
    if os.environ.get("MODELWATCH_REHEARSAL") != "inside":
        Build(folder, arguments.torch_pip_args, arguments.bind, environment).all()
        # From here on without a network but our own: the ports are those of the containers, and nothing can be fetched.
        inside = {**os.environ, "MODELWATCH_REHEARSAL": "inside"}
        sys.exit(
            subprocess.run(
                ["unshare", "--net", sys.executable, "-m", "tests.image.rehearse", *sys.argv[1:]], env=inside
            ).returncode
        )
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    with started(folder, compose) as services:
        daemon = services["modelwatch"]
        daemon.healthy()
        daemon.is_closed()
        story.tell(story.LOCAL)
        say(f"the daemon was asked to end, and did with {daemon.stop()}")
        daemon.start()
        daemon.healthy()
        story.told_before(story.LOCAL)
    say("done: the image's steps, the compose file's commands and mounts, an alert, a restart on the same volume")


def say(text: str) -> None:
    print(f"== {text}", flush=True)


class Build:
    """One root a stage, as the layers of an image."""

    def __init__(self, folder: Path, torch_pip_args: str, binds: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, dict(environment)
        parted = (entry.partition(":") for entry in (*binds, "/etc/resolv.conf"))
        self.binds: list[Mount] = [(Path(path), inside or path, True) for path, _, inside in parted]
        self.given = {"TORCH_PIP_ARGS": torch_pip_args}
        self.stages = stages(ROOT / "docker/Dockerfile")
        self.digest = digest([ROOT / "docker/Dockerfile", *(ROOT / name for name in CONTEXT)])

    def all(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._debian()
        self._stage("base")
        for step, rest in self.stages[TARGET].steps:
            if step == "COPY" and (source := re.match(r"--from=(\S+)", rest)):
                self._stage(self.stages[source[1]].base)
                self._stage(source[1])
        self._stage(TARGET)
        self._others()

    def _debian(self) -> None:
        root = self.folder / "debian"
        if not (root / "etc/debian_version").is_file():
            say("debootstrap of Debian 12")
            subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True, stdout=subprocess.DEVNULL)

    def _stage(self, name: str) -> None:
        stage, root = self.stages[name], self.folder / name
        done = root / ".built"
        if done.is_file() and done.read_text() == self.digest:
            return
        shutil.rmtree(root, ignore_errors=True)
        below = self.folder / ("debian" if stage.base not in self.stages else stage.base)
        say(f"stage {name}")
        subprocess.run(["cp", "-a", "--reflink=auto", below, root], check=True)
        (root / ".built").unlink(missing_ok=True)
        for step, rest in stage.steps:
            say(f"  {step} {rest}")
            self._run(stage, root, rest) if step == "RUN" else self._copy(root, rest)
        done.write_text(self.digest)

    def _run(self, stage: Stage, root: Path, command: str) -> None:
        environment = {**stage.environment, **stage.arguments, **{k: v for k, v in self.given.items() if k in stage.arguments}}
        with mounted(root, self.binds):
            inside = ["/usr/sbin/chroot", str(root), "/bin/sh", "-c", command]
            subprocess.run(inside, check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment, **self.environment})

    def _copy(self, root: Path, rest: str) -> None:
        words = shlex.split(rest)
        if words[0].startswith("--from="):
            source, target = self.folder / words[0].partition("=")[2] / words[1].lstrip("/"), root / words[2].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", source, target], check=True)
            return
        target = root / words[1].lstrip("/")
        for name in CONTEXT if words[0] == "." else (words[0],):
            place = target / name if words[0] == "." else target
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--no-target-directory", ROOT / name, place], check=True)

    def _others(self) -> None:
        """What the other images have."""
        root = self.folder / "others"
        if (root / ".built").is_file():
            return
        shutil.rmtree(root, ignore_errors=True)
        say("Prometheus and Alertmanager, from Debian")
        subprocess.run(["cp", "-a", self.folder / "debian", root], check=True)
        self._run(Stage("debian"), root, "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "
                  "--no-install-recommends prometheus prometheus-alertmanager >/dev/null")  # fmt: skip
        (root / ".built").touch()


def digest(paths: Sequence[Path]) -> str:
    """Of all files in `paths`: another one builds anew."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else (path,):
            if file.is_file() and file.parent.name != "__pycache__":
                found.update(f"{file.relative_to(ROOT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


@contextlib.contextmanager
def mounted(root: Path, binds: Sequence[Mount]) -> Iterator[None]:
    """/proc, /dev and `binds` inside `root`, for as long as this lasts."""
    targets: list[Path] = []
    try:
        for source, inside, read_only in [(Path("/proc"), "/proc", False), (Path("/dev"), "/dev", False), *binds]:
            target = root / inside.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if source.is_dir() else target.touch()
            subprocess.run(["mount", "--bind", source, target], check=True)
            targets.append(target)
            if read_only:
                subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        yield
    finally:
        for target in reversed(targets):
            subprocess.run(["umount", target], check=True)


class Service:
    """One service of the compose file as a process in namespaces of its own."""

    def __init__(self, name: str, section: Mapping[str, Any], folder: Path, names: Sequence[str]) -> None:
        self.name, self.section, self.folder = name, section, folder
        self.stage = stages(ROOT / "docker/Dockerfile")[TARGET] if name == "modelwatch" else Stage("", user=NOBODY)
        self.root = folder / (TARGET if name == "modelwatch" else "others")
        self.grace = float(str(section.get("stop_grace_period", "10s")).rstrip("s"))
        self.log = folder / f"{name}.log"
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost " + " ".join(names) + "\n")

    @property
    def command(self) -> list[str]:
        entry = self.stage.entrypoint or (PROGRAMS[self.name],)
        return [*entry, *(self.section.get("command") or self.stage.command)]

    def _script(self, command: Sequence[str]) -> str:
        """Mounts, then the command as the image's user."""
        root, lines = shlex.quote(str(self.root)), ["set -e", "mount --make-rprivate /"]
        lines += [f"mount --bind {root} {root}", f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        for source, inside, read_only in self._mounts():
            target = shlex.quote(str(self.root / inside.lstrip("/")))
            lines.append(f"mount --bind {shlex.quote(str(source))} {target}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {target}")
        for entry in self.section.get("tmpfs", ()):
            inside, _, options = entry.partition(":")
            lines.append(f"mount -t tmpfs -o {options or 'mode=1777'} tmpfs {root}{inside}")
        if self.section.get("read_only"):
            lines.append(f"mount -o remount,bind,ro {root}")
        user, _, group = self.stage.user.partition(":")
        environment = {"PATH": "/usr/bin:/bin", **self.stage.environment, **self.section.get("environment", {})}
        words = [
            "env",
            "-i",
            *(f"{k}={v}" for k, v in environment.items()),
            "/usr/bin/setpriv",
            f"--reuid={user}",
            f"--regid={group}",
        ]
        words += ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--", *command]
        inside_folder = shlex.quote(f"cd {shlex.quote(self.stage.folder)} && exec {shlex.join(words)}")
        return "\n".join([*lines, f"exec /usr/sbin/chroot {root} /bin/sh -c {inside_folder}"])

    def _mounts(self) -> list[Mount]:
        found: list[Mount] = [(self.hosts, "/etc/hosts", True)]
        for entry in self.section.get("volumes", ()):
            source, inside, *mode = entry.split(":")
            if source.startswith("."):
                found.append(((ROOT / "docker" / source).resolve(), inside, mode == ["ro"]))
            else:
                found.append((self._volume(source, inside), inside, False))
        for source_path, inside, _ in found:
            target = self.root / inside.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if source_path.is_dir() else target.touch()
        return found

    def _volume(self, name: str, inside: str) -> Path:
        """A folder with the owner that the image's folder has, as an engine makes a new volume."""
        volume = self.folder / "volumes" / name
        if not volume.exists():
            volume.mkdir(parents=True)
            there = self.root / inside.lstrip("/")
            user, _, group = self.stage.user.partition(":")
            owner = (there.stat().st_uid, there.stat().st_gid) if self.name == "modelwatch" else (int(user), int(group))
            os.chown(volume, *owner)
            volume.chmod(0o750)
        return volume

    def start(self) -> None:
        say(f"{self.name}: {shlex.join(self.command)}")
        command = ["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-c", self._script(self.command)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command as in `exec`: same mounts and user, another process."""
        script = self._script(command)
        return subprocess.run(["unshare", "--mount", "/bin/sh", "-c", script], capture_output=True, text=True, timeout=60)

    def healthy(self) -> None:
        end = time.monotonic() + story.PATIENCE
        while (found := self.run(*self.stage.health)).returncode:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} is not healthy: {found.stderr[-300:]}\n{self.log.read_text()[-3000:]}")
            time.sleep(1)
        say(f"{self.name} is healthy by the image's own check")

    def is_closed(self) -> None:
        """Nothing of the root can be changed, nobody is root, and nothing that installs or compiles is there."""
        assert self.run("id", "-u").stdout.strip() == self.stage.user.partition(":")[0]
        assert self.run("touch", "/opt/modelwatch/x").returncode != 0
        assert "Read-only" in self.run("touch", "/etc/x").stderr or "denied" in self.run("touch", "/etc/x").stderr
        for program in ("pip", "pip3", "gcc", "cc", "make", "git", "curl"):
            assert self.run("/bin/sh", "-c", f"command -v {program}").returncode != 0, f"{program} is in the image"
        say("the root is read-only, the user is not root, and no tool to build with is there")

    def _signal(self, number: int) -> None:
        """To process 1 of its namespace: the death of `unshare` alone would not reach it, for it runs as another user."""
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                os.kill(int(child), number)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM to the container's process 1, as `docker stop` sends it; its exit code."""
        self._signal(signal.SIGTERM)
        try:
            return self.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"{self.name} did not stop in {self.grace:.0f} s") from None


@contextlib.contextmanager
def started(folder: Path, compose: Mapping[str, Any]) -> Iterator[dict[str, Service]]:
    shutil.rmtree(folder / "volumes", ignore_errors=True)
    names = [name for name in compose["services"] if name == "modelwatch" or name in PROGRAMS]
    services = {name: Service(name, compose["services"][name], folder, names) for name in names}
    try:
        for service in services.values():
            service.log.unlink(missing_ok=True)
            service.start()
        yield services
    finally:
        for service in services.values():
            service.kill()


if __name__ == "__main__":
    main()
