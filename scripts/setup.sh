# setup.sh - what quickstart.sh and test.sh share: packages and the build. To be sourced; works from
# any folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Compiler and build tools, then the libraries that the README explains.
packages="gcc libc6-dev meson ninja-build pkg-config
          libinih-dev libdnnl-dev libjansson-dev libisal-dev libedit-dev"

# With the minutes and seconds since the start.
say() { printf '\n== %d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

# Install the packages given (default: $packages) that are missing.
install_packages() {
    local missing="" package
    for package in ${*:-$packages}; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    local line="apt-get install -y --no-install-recommends$missing"
    if ! command -v apt-get >/dev/null; then
        echo "these packages are missing, under Debian's names:$missing" >&2
        exit 2
    elif [ "$(id -u)" = 0 ]; then
        say "installing$missing"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive $line -qq >/dev/null
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
        say "installing$missing (through sudo)"
        sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $line -qq >/dev/null
    else
        echo "packages are missing, and only root can install them. Run this, then try again:" >&2
        echo "    sudo apt-get update && sudo $line" >&2
        exit 2
    fi
}

# build_in FOLDER [MESON OPTION...]: configure once, compile what changed (of $targets, where set).
build_in() {
    local folder=$1
    shift
    if [ ! -f "$folder/build.ninja" ]; then
        say "configuring $(basename "$folder")"
        meson setup "$folder" "$root" "$@" >"$folder.setup.log" 2>&1 ||
            { cat "$folder.setup.log"; exit 1; }
        rm -f "$folder.setup.log"
    fi
    say "building $(basename "$folder")"
    ninja -C "$folder" --quiet ${targets:-}
}
