#!/usr/bin/env bash
# Boots this machine's systemd in namespaces of its own, on a view of / that keeps nothing, and has it start, reload and stop
# both daemons by their units. Usage: boot.sh DIRECTORY-OF-BINARIES. Ends with 0 when all went well, 77 where it cannot be
# tried (needs root, systemd, overlayfs). One line differs from the units: PrivateDevices=, which needs a /dev that a namespace
# cannot have everywhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

unable() { echo "SKIPPED: $*" >&2; exit 77; }

# Everything below runs as process 1 of the namespaces, with the outside still to be seen.
inside() {
    local bins=$1 out=$2 new=$2/new device unit
    # Nothing that is mounted here is seen outside.
    mount --make-rprivate /
    mkdir "$new"
    mount -t tmpfs tmpfs "$new"
    mkdir "$new"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$new/upper,workdir=$new/work" "$new/root"
    local root=$new/root
    for dir in tmp run var dev; do mount -t tmpfs tmpfs "$root/$dir"; done
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
        IFS=: read -r name major minor <<< "$device"
        mknod -m 666 "$root/dev/$name" c "$major" "$minor"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir -p "$root"/dev/{shm,pts} "$root"/var/{lib,log,tmp} "$root/etc/systemd/system" "$root/etc/gnomon"
    # A copy of a whole machine would start whatever that machine starts.
    for unit in systemd-tmpfiles-{setup,setup-dev}.service systemd-tmpfiles-clean.timer systemd-udev{d,-trigger}.service \
        systemd-{remount-fs,sysctl,modules-load,random-seed,update-utmp,binfmt,timesyncd,networkd}.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    for unit in agent collector; do
        cp "$here/gnomon-$unit.service" "$root/etc/systemd/system/"
        mkdir "$root/etc/systemd/system/gnomon-$unit.service.d"
        printf '[Service]\nPrivateDevices=no\nStandardOutput=append:/mnt/gnomon-%s\nStandardError=inherit\n' "$unit" \
            > "$root/etc/systemd/system/gnomon-$unit.service.d/here.conf"
        cp "$bins/gnomon-$unit" "$root/usr/bin/"
    done
    cp "$here"/../examples/*.toml "$root/etc/gnomon/"
    cp "$here/boot.sh" "$here/gnomon.sysusers.conf" "$root/etc/gnomon/"
    printf '[Service]\nType=oneshot\nExecStart=/etc/gnomon/boot.sh --try\n' > "$root/etc/systemd/system/try.service"
    printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=try.service\n' \
        > "$root/etc/systemd/system/try.target"
    mount --bind "$out" "$root/mnt"
    cd "$root"
    mkdir -p old
    pivot_root . old
    umount -l /old
    exec env container=unshare /lib/systemd/systemd --system --unit=try.target
}

# What is tried, by a service of the systemd that was booted.
try() {
    exec > /mnt/said 2>&1
    trap 'systemctl --no-block poweroff --force' EXIT
    set -x
    ip link set lo up
    ip link add left type veth peer name right
    ip link set left up && ip link set right up
    # As docs/tls.md has it.
    systemd-sysusers /etc/gnomon/gnomon.sysusers.conf
    gnomon-collector certs --out /etc/gnomon/tls --collector-name localhost --agent here
    printf '[tls]\nca = "/etc/gnomon/tls/ca.crt"\ncertificate = "/etc/gnomon/tls/%s.crt"\nkey = "/etc/gnomon/tls/%s.key"\n' \
        collector collector > /etc/gnomon/collector.toml
    printf '[collector]\nurls = ["https://localhost:7440"]\n[tls]\nca = "/etc/gnomon/tls/ca.crt"\n%s\n%s\n' \
        'certificate = "/etc/gnomon/tls/agent-here.crt"' 'key = "/etc/gnomon/tls/agent-here.key"' > /etc/gnomon/agent.toml
    systemctl start gnomon-collector gnomon-agent
    local pids status
    pids=$(systemctl show -P MainPID gnomon-collector gnomon-agent)
    # What a filter of system calls kills, it kills soon.
    sleep 5
    grep -q 'an agent joined' /mnt/gnomon-collector
    systemctl reload gnomon-collector gnomon-agent
    sleep 2
    grep -q 'databases of addresses read again' /mnt/gnomon-collector
    grep -q 'session with the collector url="https://localhost:7440"' /mnt/gnomon-agent
    status=$(systemctl show -P StatusText gnomon-agent)
    [[ $status == *'; 0 rules'* ]]
    # What is refused is said, and changes nothing else.
    sed -i '1i nonsense = 5' /etc/gnomon/agent.toml
    systemctl reload gnomon-agent
    sleep 2
    status=$(systemctl show -P StatusText gnomon-agent)
    [[ $status == *'rules refused, those of before stay in force'* ]]
    [[ $(systemctl show -P MainPID gnomon-collector gnomon-agent) == "$pids" ]]
    [[ $(systemctl show -P NRestarts gnomon-collector gnomon-agent) == $'0\n\n0' ]]
    systemctl stop gnomon-agent gnomon-collector
    [[ $(systemctl show -P Result gnomon-agent gnomon-collector) == $'success\n\nsuccess' ]]
    # By their defaults they find each other, through the Unix socket.
    mv /etc/gnomon/collector.toml /etc/gnomon/agent.toml /tmp/
    # Another agent: the first one's id belongs to its certificate.
    rm -rf /var/lib/gnomon-agent/* /var/lib/private/gnomon-agent/*
    systemctl start gnomon-collector gnomon-agent
    sleep 5
    grep -q 'session with the collector url="unix:///run/gnomon/collector.sock"' /mnt/gnomon-agent
    systemctl stop gnomon-agent gnomon-collector
    mv /tmp/collector.toml /tmp/agent.toml /etc/gnomon/
    # A configuration that was refused is not tried again, and again.
    sed -i '1i nonsense = 5' /etc/gnomon/collector.toml
    for unit in agent collector; do
        systemctl start gnomon-$unit || true
        sleep 3
        [[ $(systemctl show -P ActiveState -P ExecMainStatus -P NRestarts gnomon-$unit | sort | tr '\n' ' ') == '0 78 failed ' ]]
    done
    echo well > /mnt/result
}

case ${1:-} in
    --inside) inside "$2" "$3" ;;
    --try) try ;;
    *)
        bins=$(cd "${1:?the directory of the binaries}" && pwd)
        [ "$(id -u)" = 0 ] || unable "needs root"
        [ -x /lib/systemd/systemd ] || unable "there is no systemd"
        out=$(mktemp -d)
        trap 'rm -rf "$out"' EXIT
        timeout 120 unshare -m -p -C -i -u -n -f --kill-child "$0" --inside "$bins" "$out" < /dev/null || true
        [ -e "$out/said" ] || unable "systemd does not boot in namespaces here"
        [ -e "$out/result" ] || { tail -n 40 "$out"/said "$out"/gnomon-*; exit 1; }
        ;;
esac
