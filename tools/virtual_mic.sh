#!/usr/bin/env bash
# A virtual microphone for a machine without a sound card: its own PulseAudio daemon, which PortAudio reaches through ALSA.
#
#   tools/virtual_mic.sh install                   the Debian packages it needs (as root, once per machine)
#   eval "$(tools/virtual_mic.sh start DIR)"       start a daemon in DIR and set the variables that programs need
#   tools/virtual_mic.sh play DIR FILE.wav         play a file into the microphone; returns at the end of the file
#   tools/virtual_mic.sh unplug|replug DIR         remove the devices, or add them again; the daemon continues
#   tools/virtual_mic.sh suspend|resume DIR        the devices stay, but deliver no audio
#   tools/virtual_mic.sh freeze|thaw DIR           pause the daemon's process: no audio, no error, no response
#   tools/virtual_mic.sh crash DIR                 kill the daemon; "start" starts a new one
#   tools/virtual_mic.sh stop DIR                  end the daemon and delete DIR
#
# Each DIR has its own daemon, so tests can run side by side. PortAudio finds two devices if HOME is DIR/home:
#   vmic      48 kHz stereo, records the files that are played
#   monomic   16 kHz mono, records only files played as: play DIR FILE.wav mono
set -euo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }  # not to stdout, which callers pass to eval

verb=${1:-help}
dir=${2:-}
[ "$verb" = install ] || [ -n "$dir" ] || usage
export PULSE_SERVER=unix:$dir/sock
unset PULSE_SINK PULSE_SOURCE

# A killed daemon that its parent has not yet waited for (a zombie) still has its process ID, but does not count as alive.
alive() { [ -s "$dir/pid" ] && grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$dir/pid")/status" 2>/dev/null; }

plug() {
  # without norewinds, an idle null sink renders two seconds at a time, and recordings begin two seconds late
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
  # -n: no default modules, so no D-Bus and no suspending. stdio is closed, else a caller that reads our output waits forever
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
  # one second of buffer, so that a busy machine does not cause dropouts
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
