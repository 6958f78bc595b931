#!/bin/bash
# The main job, from an empty directory to a page that one virtual machine makes with data from another.
#
# As root it builds a small internet first (examples/labs/three-hosts.lab): a computer with a public address and two
# homes behind different routers, three real agents. Without root, one agent on this computer. `make demo` builds what
# this needs and calls it. Whatever happens, Ctrl-C included, it leaves no process, file or namespace behind, and it
# ends with 0 only if everything it shows is true.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

agent=${AGENT_BIN:-target/debug/agent}
netsim=${NETSIM_BIN:-target/debug/netsim}
tiny=${TINY_IMAGE:-target/tiny/tiny.raw}
for built in "$agent" "$netsim" "$tiny"; do
    [ -f "$built" ] || { printf '%s is missing\nhint: make demo\n' "$built" >&2; exit 1; }
done
# An overlay names its base by a path that must hold from another directory.
tiny=$(realpath "$tiny")
lab=examples/labs/three-hosts.lab
topology=examples/shop/topology.toml

# --- talking ------------------------------------------------------------------------------------------------------

bold='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '   %s\n' "$*"; }
indented() { sed 's/^/     /'; }
now_ms() { date +%s%3N; }
# in_s MILLISECONDS: as seconds with one digit.
in_s() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# --- the lab, when we may have one --------------------------------------------------------------------------------

why_no_lab=
if [ -z "${NETSIM_LAB:-}" ]; then
    if [ "$(id -u)" != 0 ]; then
        why_no_lab='making network namespaces needs root (sudo examples/demo.sh, now that all is built)'
    elif ! tried=$("$netsim" run "$lab" -- true 2>&1); then
        case $tried in
            *"no lab is possible here"*) why_no_lab=${tried#netsim: } ;;
            *) echo "$tried" >&2; exit 1 ;;
        esac
    else
        # Ctrl-C is for the script alone: it cleans up, and then netsim takes the lab down. (Where `env` cannot give it
        # back to the script both get it, and the lab's guard ends what the script does not.)
        again=(examples/demo.sh)
        if env --default-signal=INT true 2>/dev/null; then
            again=(env --default-signal=INT examples/demo.sh)
            trap '' INT
        fi
        exec "$netsim" run "$lab" -- "${again[@]}"
    fi
fi
if [ -n "${NETSIM_LAB:-}" ]; then hosts='vps nas laptop'; else hosts='nas'; fi

# --- running things on hosts --------------------------------------------------------------------------------------

# It needs nobody of the real internet, and no port of this home's router.
export AGENT_RELAY_FALLBACK='[]' AGENT_LISTEN_MAP=false
dir=$(mktemp -d "${TMPDIR:-/tmp}/agent-demo.XXXXXX")
agents=()       # process ids
step=starting   # what failed, should something fail

# place HOST: sets `at` to what starts a command in the network of that host, with its data directory.
place() {
    at=(env "AGENT_DATA_DIR=$dir/$1")
    [ -z "${NETSIM_LAB:-}" ] || at=("$netsim" exec "$1" -- "${at[@]}")
}

# on HOST COMMAND...: runs it there.
on() {
    local at
    place "$1"
    "${at[@]}" "${@:2}"
}

# typed HOST TEXT: shows what one would type there.
typed() { printf '   %s%s$ %s%s\n' "$bold" "$1" "$2" "$plain"; }

# agent HOST ARGUMENTS...: shows the command and runs it.
agent() {
    local host=$1
    shift
    step="agent $* (on $host)"
    typed "$host" "agent $*"
    on "$host" "$agent" "$@" 2>&1 | indented
}

# field NAME: takes the first text of that name out of one line of JSON.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# within SECONDS WHAT COMMAND...: waits until it succeeds, and fails when it does not.
within() {
    local end=$((SECONDS + $1))
    step="waiting until $2"
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# start HOST: starts the agent and waits until it answers.
start() {
    typed "$1" 'agent run &'
    # A session of its own: Ctrl-C reaches this script only, and it ends the agents.
    local at
    place "$1"
    "${at[@]}" setsid "$agent" run >"$dir/$1.log" 2>&1 &
    agents+=($!)
    within 15 "the agent of $1 answers" on "$1" "$agent" status
}

# all_up: every host sees every other one, knows by which path, and can run machines.
all_up() {
    local host seen
    for host in $hosts; do
        seen=$(on "$host" "$agent" status --json) || return 1
        [ "$(grep -o '"state":"up","path":{"kind"' <<<"$seen" | wc -l)" = "$(wc -w <<<"$hosts")" ] || return 1
        grep -q '"accelerator":"' <<<"$seen" || return 1
    done
}

# ours: the processes of this demo, known by its directory in their command line or environment.
ours() {
    local process
    for process in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$process/cmdline" | grep -qF "$dir/" ||
            tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qF "$dir/"; then
            echo "${process#/proc/}"
        fi
    done 2>/dev/null
}

# --- the end, however it comes ------------------------------------------------------------------------------------

clean() {
    local code=$? log
    trap '' INT TERM HUP
    trap - EXIT
    set +e
    if [ "$code" != 0 ] && [ "$code" != 130 ] && [ "$code" != 143 ]; then
        printf '\nthe demo failed: %s\n' "$step" >&2
        for log in "$dir"/*.log; do
            [ ! -s "$log" ] || { echo "--- $(basename "$log" .log) said last:"; tail -n 15 "$log"; } >&2
        done
    fi
    case $code in 130 | 143) printf '\ninterrupted: cleaning up\n' >&2 ;; esac
    # Agents first, in order; a machine outlives its agent, so what is left then is ended by force.
    [ ${#agents[@]} = 0 ] || kill "${agents[@]}" 2>/dev/null
    { wait; } 2>/dev/null
    local left sockets
    left=$(ours)
    # A machine's process names the directory of its sockets, which is not below ours.
    sockets=$(for process in $left; do tr '\0' '\n' <"/proc/$process/cmdline"; done 2>/dev/null |
        grep -x '/.*/agent-[0-9a-f-]*' | sort -u)
    [ -z "$left" ] || kill -9 $left 2>/dev/null
    rm -rf "$dir" $sockets
    exit "$code"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the story ----------------------------------------------------------------------------------------------------

began=$(now_ms)
if [ -n "${NETSIM_LAB:-}" ]; then
    title 'Three computers'
    say 'vps has a public address. nas is at home behind a router that keeps ports (cone NAT), laptop in a flat behind'
    say 'one that picks a new port for every destination (symmetric NAT), the hard case. Links have delay and limits.'

    title 'A mesh is made on vps; it needs no server, account or address list'
    agent vps init --name vps
    start vps
    step='agent token create (on vps)'
    typed vps 'agent token create'
    # The secret of a token is shown only once, so both readers get the same one.
    on vps "$agent" token create >"$dir/token" 2>"$dir/about"
    token=$(sed -n 's/^ *agent join \(mesh1[a-z0-9]*\).*/\1/p' "$dir/token")
    [ -n "$token" ]
    sed "s/$token/${token:0:24}.../" "$dir/token" "$dir/about" | indented

    title 'The others paste that line, whatever router they sit behind'
    for host in nas laptop; do
        step="agent join (on $host)"
        typed "$host" "agent join ${token:0:24}... --name $host"
        on "$host" "$agent" join "$token" --name "$host" 2>&1 | indented
        start "$host"
    done
    asked=laptop far=nas
else
    title 'One computer'
    say "No lab here: $why_no_lab."
    say 'The lab would add two more computers behind two different routers: joining by token, paths through NATs, the'
    say 'image travelling from one to the other, three voters, and machines that talk across homes.'
    agent nas init --name nas
    start nas
    asked=nas far=nas
fi

within 20 'every host sees every other one, and has asked its QEMU what it can do' all_up
agent "$asked" status

title 'A disk image enters the mesh on one host; the others fetch it from there, verified'
agent nas image import "$tiny" --name tiny

title 'What would run where, and why'
agent "$asked" session plan "$topology"

title 'Up: real virtual machines, in order (web waits until db is ready)'
up_began=$(now_ms)
agent "$asked" session up "$topology" --timeout 2m
up_took=$(($(now_ms) - up_began))

step='the session is spread and voted for as it should be'
status=$(on "$asked" "$agent" session status shop --json)
if [ -n "${NETSIM_LAB:-}" ]; then
    host_of() { grep -o "{\"name\":\"$1\"[^}]*" <<<"$status" | field host; }
    [ "$(printf '%s\n' "$(host_of db-1)" "$(host_of web-1)" "$(host_of web-2)" | sort -u | wc -l)" = 3 ]
    grep -q '"voters":\["laptop","nas","vps"\]' <<<"$status"
fi

title 'The name answers on every host; a page made by one machine with data from another'
for host in $hosts; do
    step="the shop's page (on $host)"
    typed "$host" 'curl http://$(agent dns query web.shop.mesh.internal | head -1):8080/'
    address=$(on "$host" "$agent" dns query web.shop.mesh.internal | sed -n 1p)
    page=$(on "$host" curl --silent --show-error --fail --max-time 10 "http://$address:8080/")
    grep -q 'apples 12' <<<"$page"
    indented <<<"$page"
done

title 'A shell in a machine, from any host'
agent "$far" machine ssh web-1 -- uname -a

# The very machine that the agent chose (type, accelerator, processor, memory), for the comparison below.
step='reading how QEMU was started'
for process in $(ours); do
    [ "$(cat "/proc/$process/comm" 2>/dev/null)" != qemu-system-x86 ] || mapfile -d '' -t qemu <"/proc/$process/cmdline"
done
same=()
for ((i = 1; i < ${#qemu[@]}; i++)); do
    case ${qemu[i]} in -machine | -accel | -cpu | -smp | -m) same+=("${qemu[i]}" "${qemu[i + 1]}") ;; esac
done
[ ${#same[@]} = 10 ]

title 'Down'
agent "$asked" session down shop
step='ending the agents'
kill "${agents[@]}"
for process in "${agents[@]}"; do wait "$process"; done
agents=()
step='nothing of the demo runs any more'
[ -z "$(ours)" ]
say 'No machine and no agent is left.'

# --- how long a bare QEMU takes -----------------------------------------------------------------------------------

title 'For comparison: the same guest in a bare QEMU, alone on this computer'
step='the bare QEMU boots'
qemu-img create -q -f qcow2 -F raw -b "$tiny" "$dir/bare.qcow2"
port=$((20000 + RANDOM % 12000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
bare_began=$(now_ms)
# A session of its own, as the agent's machines have: the kernel shares processors out by session.
setsid "${qemu[0]}" -nodefaults -no-user-config "${same[@]}" -display none -serial null \
    -blockdev driver=raw,node-name=base,read-only=on,file.driver=file,file.filename="$tiny" \
    -blockdev driver=qcow2,node-name=disk,backing=base,file.driver=file,file.filename="$dir/bare.qcow2" \
    -device virtio-blk-pci,drive=disk -device virtio-rng-pci \
    -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:8080" -device virtio-net-pci,netdev=net,romfile= \
    >"$dir/bare.log" 2>&1 &
agents=($!)
within 60 'the bare guest answers by HTTP' curl --silent --fail --max-time 2 "http://127.0.0.1:$port/"
bare_took=$(($(now_ms) - bare_began))
kill "${agents[@]}"
wait "${agents[@]}" || true
agents=()

say "bare QEMU, started to first page:       $(in_s "$bare_took")   (${same[*]})"
say "session up, typed to all three ready:   $(in_s "$up_took")   (plan and votes, the image's way to its hosts, then two"
say "                                                  boots one after the other: db, and after it both webs at once)"

step='leaving nothing behind'
rm -rf "$dir"
title "Done in $(in_s $(($(now_ms) - began))). No process, file or namespace is left"
