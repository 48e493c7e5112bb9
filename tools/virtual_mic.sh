#!/usr/bin/env bash
# A virtual microphone for a machine without a sound card: a private PulseAudio daemon that PortAudio reaches through ALSA.
#
#   tools/virtual_mic.sh install                   the Debian packages it needs (as root, once per machine)
#   eval "$(tools/virtual_mic.sh start DIR)"       start a daemon in DIR and print what a program must export
#   tools/virtual_mic.sh play DIR FILE.wav         play a file into the microphone; returns at its end
#   tools/virtual_mic.sh unplug|replug DIR         take the devices away, give them back; the daemon lives on
#   tools/virtual_mic.sh suspend|resume DIR        the devices stay, but no sound comes
#   tools/virtual_mic.sh freeze|thaw DIR           wedge the daemon: no sound, no error, no answer
#   tools/virtual_mic.sh crash DIR                 kill the daemon; "start" brings it back
#   tools/virtual_mic.sh stop DIR                  end it and delete DIR
#
# Every DIR is a daemon of its own, so tests can run side by side. Devices for PortAudio, read from HOME=DIR/home:
#   vmic      48 kHz stereo, records what is played
#   monomic   16 kHz mono, records what is played to it (play DIR FILE.wav mono)
set -euo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }  # not to stdout, which callers evaluate

verb=${1:-help}
dir=${2:-}
[ "$verb" = install ] || [ -n "$dir" ] || usage
export PULSE_SERVER=unix:$dir/sock
unset PULSE_SINK PULSE_SOURCE

# A daemon that was killed and that nobody has reaped yet still has its number, but is not alive.
alive() { [ -s "$dir/pid" ] && grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$dir/pid")/status" 2>/dev/null; }

plug() {
  # norewinds: without it an idle null sink renders two seconds at a time, and recordings begin that late
  pactl load-module module-null-sink sink_name=stereo rate=48000 channels=2 format=s16le norewinds=1 >/dev/null
  pactl load-module module-null-sink sink_name=mono rate=16000 channels=1 format=s16le norewinds=1 >/dev/null
  pactl load-module module-remap-source master=stereo.monitor source_name=vmic >/dev/null
  pactl load-module module-remap-source master=mono.monitor source_name=monomic >/dev/null
  pactl set-default-sink stereo
  pactl set-default-source vmic
}

start() {
  rm -rf "$dir"
  mkdir -p "$dir/home"
  for device in vmic monomic; do
    echo "pcm.$device { type pulse device $device hint { show on description \"Virtual $device\" } }"
  done >"$dir/home/.asoundrc"
  # -n: no default modules, so no D-Bus and no suspending; closed stdio, or a caller that reads our output waits forever
  HOME=$dir/home XDG_RUNTIME_DIR=$dir setsid pulseaudio -n --daemonize=no --exit-idle-time=-1 --use-pid-file=no \
    --log-target="file:$dir/log" --log-level=notice \
    -L "module-native-protocol-unix auth-anonymous=1 socket=$dir/sock" </dev/null >/dev/null 2>&1 &
  echo $! >"$dir/pid"
  for _ in $(seq 200); do
    pactl info >/dev/null 2>&1 && break
    sleep 0.05
  done
  pactl info >/dev/null
  plug
}

case $verb in
  install)
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      pulseaudio pulseaudio-utils libasound2-plugins libportaudio2 ;;
  start)
    alive || start
    echo "export PULSE_SERVER=unix:$dir/sock HOME=$dir/home" ;;
  # a second of buffer: a busy machine must not tear holes into what is played
  play) paplay --latency-msec=1000 --device="${4:-stereo}" "${3:?a file}" ;;
  unplug) for module in module-remap-source module-null-sink; do pactl unload-module "$module"; done ;;
  replug) plug ;;
  suspend) for sink in stereo mono; do pactl suspend-sink "$sink" 1; done ;;
  resume) for sink in stereo mono; do pactl suspend-sink "$sink" 0; done ;;
  freeze) kill -STOP "$(cat "$dir/pid")" ;;
  thaw) kill -CONT "$(cat "$dir/pid")" ;;
  crash)
    kill -KILL "$(cat "$dir/pid")"
    for _ in $(seq 100); do alive || break; sleep 0.02; done ;;
  stop)
    if alive; then
      kill -CONT "$(cat "$dir/pid")"
      kill "$(cat "$dir/pid")"
    fi
    rm -rf "$dir" ;;
  *) usage ;;
esac
