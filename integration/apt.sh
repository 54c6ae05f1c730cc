# Read by the scripts setup.sh: installs packages of Debian.

# install_packages SCRIPT PACKAGE...: installs them, if there are any. SCRIPT is named where that needs root.
install_packages() {
    script=$1
    shift
    [ $# != 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "$script: as root, install: $*" >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "$@" > /dev/null 2>&1 || {
        apt-get update -q > /dev/null
        apt-get install -y -q --no-install-recommends "$@" > /dev/null
    }
}
