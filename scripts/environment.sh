# Sourced by the scripts beside it: finds a Python and keeps .venv as pyproject.toml and
# constraints.txt ask. It knows no test and no model. PYTHON names the interpreter to use.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
# Line 1: interpreter and place; line 2: what pyproject.toml and constraints.txt asked for;
# then one line for each set of extras. It is there only while the environment is whole.
RECORD="$VENV/installed"
# Otherwise tests that import onnxruntime themselves have it report to its maker.
export ORT_DISABLE_TELEMETRY=1

# Prints each argument on a line of its own, away from what a command prints.
say() {
    printf '%s\n' "$@" >&2
}

# is_suitable PYTHON: does it run, is it new enough, and can it make environments?
is_suitable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints the interpreter to make .venv with.
find_python() {
    local candidate found=""
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        if is_suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
        found="$found $candidate: $(describe_python "$candidate");"
        # An interpreter that was asked for by name is used or refused, never replaced.
        [ -z "${PYTHON:-}" ] || break
    done
    say "bart_onnx needs Python 3.11 or newer with the modules venv and ensurepip. Found$found"
    say "Install one (Debian and Ubuntu: python3 and python3-venv), or name one: PYTHON=/path/to/python3"
    return 1
}

describe_python() {
    local version
    if version="$("$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)"; then
        "$1" -c 'import venv, ensurepip' >/dev/null 2>&1 || version="$version without venv or ensurepip"
        printf '%s' "$version"
    else
        printf 'not there'
    fi
}

# prepare_environment EXTRAS: makes .venv hold the package with these extras ("cpu", "test", ...).
# Returns at once when it does. `test` holds what every other set asks for here.
prepare_environment() {
    local extras="$1" python identity wanted kept=""
    python="$(find_python)"
    identity="$("$python" -c 'import sys; print(sys.version.split()[0], sys.base_prefix, sys.argv[1])' "$ROOT")"
    wanted="$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | "$python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [ "$(record_line 1)" != "$identity" ]; then
        # Without a record an install was cut short, and pip takes half-copied packages for whole ones.
        say "Making $VENV with $python"
        "$python" -m venv --clear "$VENV"
    elif [ "$(record_line 2)" = "$wanted" ]; then
        kept="$(sed 1,2d "$RECORD")"
        if grep -qxF -e "$extras" -e test <<<"$kept"; then
            return
        fi
    fi
    rm -f "$RECORD"
    say "Installing bart_onnx[$extras] into $VENV (the first time takes minutes)"
    "$VENV/bin/python" -m pip install --disable-pip-version-check \
        -c "$ROOT/constraints.txt" -e "$ROOT[$extras]" >&2
    printf '%s\n' "$identity" "$wanted" ${kept:+"$kept"} "$extras" >"$RECORD.new"
    mv "$RECORD.new" "$RECORD"
}

# prepare_beside NAME PACKAGE ...: makes .venv-NAME hold packages that cannot be in .venv.
prepare_beside() {
    local venv="$ROOT/.venv-$1"
    shift
    # The record is written last, so that an install that was cut short is made anew.
    if [ "$(cat "$venv/installed" 2>/dev/null)" != "$*" ]; then
        say "Installing $* into $venv (the first time takes minutes)"
        "$(find_python)" -m venv --clear "$venv"
        "$venv/bin/python" -m pip install --disable-pip-version-check "$@" >&2
        echo "$*" >"$venv/installed"
    fi
}

record_line() {
    [ ! -f "$RECORD" ] || sed -n "${1}p" "$RECORD"
}
