#!/usr/bin/env bash
# Sets a machine up, from nothing but Python >= 3.11. The Makefile and the image call it; each step may be repeated.
#
#   install.sh programs    prometheus, promtool, alertmanager and amtool
#   install.sh run         .venv with what the daemon and the demo need
#   install.sh dev         .venv with what the checks need besides
#   install.sh lock        writes requirements.lock from a fresh resolve
#   install.sh system      of a container image, all layers: Python, tini, the user modelwatch and its folders
#   install.sh image       of a container image, a layer that is thrown away: modelwatch with all its parts in VENV, without pip
#
# PYTHON          the interpreter that .venv is made with
# VENV            where the environment goes (default .venv)
# TORCH_BUILD     cpu or cuda: what the torch of an image must be; another one is an error
# TORCH_PIP_ARGS  extra arguments for the pip call that installs torch, e.g. --extra-index-url of PyTorch's CPU builds
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
LOCK=requirements.lock

# grafana-client brings urllib3-future, whose wheel puts itself in the place of urllib3, for everybody in the environment. Built
# from source and told so, it does not; a test looks.
export URLLIB3_NO_OVERRIDE=1
export PIP_NO_BINARY="${PIP_NO_BINARY:+$PIP_NO_BINARY,}urllib3-future"

say() { printf '== %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

apt_install() {
    command -v apt-get >/dev/null || fail "this machine has no apt-get; install $* by hand"
    [ "$(id -u)" = 0 ] || fail "missing: $*; run once as root: apt-get install --no-install-recommends $*"
    say "apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

programs() {
    local missing=()
    command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
    command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null || missing+=(prometheus-alertmanager)
    [ ${#missing[@]} -gt 0 ] || return 0
    apt_install "${missing[@]}"
    # Debian starts what it installs. We wanted the programs, not services on their well-known ports.
    if [ -d /run/systemd/system ]; then
        systemctl disable --now --quiet "${missing[@]}" || true
    fi
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "needs Python 3.11 or later (tried ${PYTHON:-python3.11 python3 python3.12 python3.13}); say which one with PYTHON="
}

make_venv() {
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python)
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian keeps ensurepip in a package of its own, named for the version.
        apt_install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    say "creating $VENV with $python"
    "$python" -m venv --clear "$VENV"
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

install_torch() {
    local version
    version=$(sed -n 's/^torch==//p' "$LOCK")
    "$VENV/bin/python" - "$version" <<'EOF' && return
import importlib.metadata, sys
try:
    sys.exit(importlib.metadata.version("torch").partition("+")[0] != sys.argv[1])
except importlib.metadata.PackageNotFoundError:
    sys.exit(1)
EOF
    if [ -z "${TORCH_PIP_ARGS:-}" ] && ! command -v nvidia-smi >/dev/null; then
        say "no GPU here: if the torch below is the CUDA build (gigabytes), stop and set TORCH_PIP_ARGS, see README.md"
    fi
    say "installing torch $version"
    # First and alone, so that no other requirement pulls another build of it.
    # shellcheck disable=SC2086  # several arguments in one variable
    pip install ${TORCH_PIP_ARGS:-} "torch==$version"
}

packages() {  # what to install
    make_venv
    install_torch
    say "installing modelwatch and what it needs ($1)"
    pip install --quiet -c "$LOCK" -e "$1"
    say "$VENV is ready"
}

lock() {
    make_venv
    local report
    report=$(mktemp)
    say "resolving"
    pip install --quiet --dry-run --ignore-installed --report "$report" \
        "torch==$(sed -n 's/^torch==//p' "$LOCK")" ".[dev,judge,toxicity]"
    "$VENV/bin/python" - "$report" > "$LOCK.new" <<'EOF'
import json, re, sys

print("# What the tests run with: versions for pip's -c, without hosts. Written by `make lock` (docker/install.sh) from a")
print("# fresh resolve of modelwatch[dev,judge,toxicity] on Python 3.11, Linux x86-64. Do not edit, but for torch: its version")
print("# here is an input, and its build (CPU or CUDA) depends on where pip finds it.")
found = [entry["metadata"] for entry in json.load(open(sys.argv[1]))["install"]]
names = {re.sub(r"[-_.]+", "-", m["name"]).lower(): m["version"].partition("+")[0] for m in found}
del names["modelwatch"]
print(*(f"{name}=={version}" for name, version in sorted(names.items())), sep="\n")
EOF
    rm -f "$report"
    mv "$LOCK.new" "$LOCK"
    say "$(grep -c == "$LOCK") versions in $LOCK"
}

system() {
    apt_install python3 tini ca-certificates
    rm -rf /var/lib/apt/lists/*
    getent passwd modelwatch >/dev/null || useradd --system --uid 10001 --user-group --home-dir /var/lib/modelwatch --no-create-home modelwatch
    install -d -m 0755 /etc/modelwatch
    install -d -m 0750 -o modelwatch -g modelwatch /var/lib/modelwatch
}

image() {
    make_venv
    install_torch
    local build
    build=$("$VENV/bin/python" -c 'import torch; print("cuda" if torch.version.cuda else "cpu")')
    [ "$build" = "${TORCH_BUILD:-$build}" ] || fail "torch here is the $build build, not $TORCH_BUILD; set TORCH_PIP_ARGS, see README.md"
    say "installing modelwatch with all its parts"
    pip install --quiet -c "$LOCK" '.[gpu,grafana,judge,kafka,mlflow,streaming,toxicity]'
    # What only installs or compiles has no place in an image.
    pip uninstall --quiet --yes pip setuptools wheel 2>/dev/null || true
    find "$VENV" -name __pycache__ -prune -exec rm -rf {} +
    "$VENV/bin/python" -m compileall -q "$VENV/lib" >/dev/null || true  # the root is read-only later, and each start would compile
}

case "${1:-}" in
    programs) programs ;;
    run) packages . ;;
    dev) packages '.[dev]' ;;
    lock) lock ;;
    system) system ;;
    image) image ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
