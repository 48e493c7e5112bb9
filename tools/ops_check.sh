#!/usr/bin/env bash
# Start the systemd unit and the container image, and check them (tools/ops_check): as root, on Debian, in about ten minutes.
#   tools/ops_check.sh list                       print the list of checks
#   tools/ops_check.sh [unit|image|all] [FOLDER]  run them; FOLDER (default: build/ops) keeps a Debian system, about 4 GB
# The unit and the image run in that Debian system. systemd-nspawn boots it with its own network, so this machine is not
# changed. Packages come from Debian's mirror and PyPI. Needed: systemd-container and debootstrap, and buildah for the image.
#   MIRROR=http://deb.debian.org/debian SUITE=bookworm    where the Debian system comes from
#   BASE_PYTHON=/path/of/python3.12   if python:3.12-slim cannot be pulled: make it from Debian and this Python
# Exit code: 0 all checks held, 1 a check failed, 3 the checks were not run (the reason is printed).
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:-all}
python=${PYTHON:-python3}
if [ "$part" = list ]; then exec "$python" tools/ops_check list; fi
case $part in unit | image | all) ;; *) sed -n '2,4p' "$0" >&2; exit 2 ;; esac

not_done() {
  echo "not done: $1"
  exit 3
}
needed=(debootstrap systemd-nspawn)
if [ "$part" != unit ]; then needed+=(buildah); fi
[ "$(id -u)" = 0 ] || not_done "needs root"
for tool in "${needed[@]}"; do
  command -v "$tool" >/dev/null ||
    not_done "$tool is not installed (apt-get install systemd-container debootstrap buildah)"
done

folder=$(realpath -m "${2:-build/ops}")
root=$folder/debian
mirror=${MIRROR:-http://deb.debian.org/debian}
authorities=/etc/ssl/certs/ca-certificates.crt # of this machine, since a proxy in front of PyPI may have its own authority
nspawn=(systemd-nspawn --quiet --directory "$root" --register=no --keep-unit)
mkdir -p "$folder"

echo "== Debian system"
if [ ! -e "$folder/debian.done" ]; then
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,openssl,python3,python3-venv \
    "${SUITE:-bookworm}" "$root" "$mirror" >"$folder/debootstrap.log"
  touch "$folder/debian.done"
fi
if [ "$part" != unit ] && [ ! -e "$root/usr/bin/podman" ]; then
  "${nspawn[@]}" --resolv-conf=copy-host sh -c 'apt-get update && apt-get install -y --no-install-recommends podman crun' \
    >"$folder/apt.log"
fi
cp "$authorities" "$root$authorities"

echo "== streamser in /opt/streamser"
rm -rf "$root/opt/wheels" && mkdir -p "$root/opt/wheels"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$root/opt/wheels" .
"${nspawn[@]}" --resolv-conf=copy-host --setenv=PIP_CERT="$authorities" sh -c '
  [ -x /opt/streamser/bin/python ] || python3 -m venv /opt/streamser
  wheel=$(echo /opt/wheels/streamser-*.whl)
  /opt/streamser/bin/pip install --quiet "$wheel[serve]" &&
  /opt/streamser/bin/pip install --quiet --no-deps --force-reinstall "$wheel"'

echo "== the unit, installed as the comment at its top describes"
cp tools/deploy/streamser.service "$root/etc/systemd/system/"
"${nspawn[@]}" --private-network sh -c '
  install -d -m 700 /etc/streamser && umask 077 && echo "STREAMSER_TOKEN=$(openssl rand -hex 24)" > /etc/streamser/environment'

base_image() { # make python:3.12-slim from Debian and the Python in $BASE_PYTHON, with the real image's paths
  local base=$folder/base container
  if [ ! -e "$folder/base.done" ]; then
    debootstrap --variant=minbase --include=ca-certificates,libbz2-1.0,libffi8,liblzma5,libsqlite3-0,libssl3t64,zlib1g \
      trixie "$base" "$mirror" >"$folder/debootstrap-base.log"
    cp -a "$BASE_PYTHON/bin" "$BASE_PYTHON/lib" "$base/usr/local/"
    rm -rf "$base"/usr/local/lib/python3.12/{test,site-packages,config-*} "$base"/usr/local/bin/pip*
    rm -f "$base"/usr/local/lib/*.a
    systemd-nspawn --quiet --directory "$base" --register=no --keep-unit --private-network sh -c '
      ldconfig && python3.12 -m ensurepip --default-pip && ln -sf python3.12 /usr/local/bin/python &&
      rm -rf /var/cache/apt /var/lib/apt/lists' >"$folder/base.log"
    touch "$folder/base.done"
  fi
  container=$("${buildah[@]}" from scratch)
  "${buildah[@]}" add --quiet "$container" "$base" / >/dev/null
  "${buildah[@]}" config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  "${buildah[@]}" commit --quiet --rm "$container" docker.io/library/python:3.12-slim >/dev/null
}

if [ "$part" != unit ]; then
  echo "== the image"
  stored=$root/var/lib/containers/storage
  buildah=(buildah --root "$stored" --runroot "$folder/run" --storage-driver vfs)
  printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
    >"$root/etc/containers/storage.conf"
  # systemd-nspawn delegates no cgroup controllers, raises no limits and refuses keyrings; podman's defaults need all three.
  printf '[containers]\ncgroups = "disabled"\nkeyring = false\ndefault_ulimits = ["nofile=2048:2048", "nproc=4096:4096"]\n' \
    >"$root/etc/containers/containers.conf"
  if ! "${buildah[@]}" pull --quiet --policy missing docker.io/library/python:3.12-slim >/dev/null 2>"$folder/pull.log"; then
    [ -x "${BASE_PYTHON:-}/bin/python3.12" ] ||
      not_done "python:3.12-slim cannot be fetched (see $folder/pull.log), and BASE_PYTHON names no Python 3.12"
    echo "python:3.12-slim cannot be fetched; building a base image from Debian and $BASE_PYTHON instead"
    base_image
  fi
  printf '[global]\ncert = %s\n' "$authorities" >"$folder/pip.conf"
  "${buildah[@]}" build --isolation chroot --format docker --pull-never \
    --volume "$folder/pip.conf:/etc/pip.conf:ro" --volume "$authorities:$authorities:ro" --tag streamser . \
    >"$folder/build.log" 2>&1 || { tail -20 "$folder/build.log"; exit 1; }
fi

check() { # boot the Debian system, run the checks of a part as its last unit, and return their exit code
  echo "== checks: $1"
  rm -rf "$root/opt/ops_check" "$root/var/log/ops_check.log"
  cp -r tools/ops_check "$root/opt/"
  cat >"$root/etc/systemd/system/ops-check.service" <<UNIT
[Unit]
After=streamser.service
SuccessAction=exit
FailureAction=exit
FailureActionExitStatus=1

[Service]
Type=oneshot
Environment=STREAMSER_OPS_CHECK=1 PYTHONDONTWRITEBYTECODE=1
ExecStart=/opt/streamser/bin/python /opt/ops_check $1
StandardOutput=append:/var/log/ops_check.log
StandardError=append:/var/log/ops_check.log

[Install]
WantedBy=multi-user.target
UNIT
  local service=enable
  if [ "$1" = image ]; then service=disable; fi # the service and the container would both use port 8765
  "${nspawn[@]}" --private-network sh -c "systemctl enable --quiet ops-check && systemctl $service --quiet streamser"
  local code=0
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout 900 "${nspawn[@]}" --boot --private-network </dev/null \
    >"$folder/boot-$1.log" 2>&1 || code=$?
  cat "$root/var/log/ops_check.log" || not_done "the system did not boot: $(tail -1 "$folder/boot-$1.log")"
  return "$code"
}
failed=0
if [ "$part" != image ]; then check unit || failed=1; fi
if [ "$part" != unit ]; then check image || failed=1; fi
exit "$failed"
