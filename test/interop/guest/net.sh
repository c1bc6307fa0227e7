# Runs as busybox sh in the test guest. Each line "NAME: VALUE" on the console is looked at by the test.
say() { echo "$1: $2"; }
sum() { sha256sum | cut -d' ' -f1; }

say "net mac" "$(cat /sys/class/net/eth0/address)"
say "net mtu" "$(cat /sys/class/net/eth0/mtu)"
say "net queues" "$(ls /sys/class/net/eth0/queues | grep -c rx)"
ip addr add 10.0.0.1/24 dev eth0
ip link set eth0 up
say "net from host" "$(wget -q -O - http://10.0.0.2:8080/ | sum)"
dd if=/dev/urandom of=/from-guest bs=1M count=16 2>/dev/null
say "net to host" "$(sum < /from-guest)"
say "net to host reply" "$(nc 10.0.0.2 8081 < /from-guest)"
ip link set eth0 down
ip link set eth0 up
say "net again" "$(wget -q -O - http://10.0.0.2:8080/ | sum)"
