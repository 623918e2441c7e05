#!/bin/bash
# Run in a Debian in which systemd does not run, with the package at /package.deb: installs, removes and purges it.
set -euo pipefail

unit=balancing-agent.service
unit_file=/usr/lib/systemd/system/$unit

# equal WHAT WANTED GOT
equal() { [ "$2" = "$3" ] || { printf '%s:\n%s\nwanted:\n%s\n' "$1" "$3" "$2" >&2 && exit 1; }; }

# What there is, with rights, but for what dpkg keeps for itself and what goes with a boot.
everything() {
    find / -xdev \( -path /proc -o -path /run -o -path /var/lib/dpkg -o -path /var/log \) -prune -o -printf '%p %M %u:%g\n' | sort
}
enabled() { systemctl is-enabled "$unit" || true; }

before=$(everything)
dpkg -i /package.deb >/dev/null
equal "rights of the settings" "600 root root" "$(stat -c '%a %U %G' /etc/balancing/agent.env)"
for program in balancing-agent balancingctl; do echo "runs: $("$program" --version)"; done
equal "systemd-analyze verify" "" "$(systemd-analyze verify --man=no "$unit_file" 2>&1)"
equal "the service after installation" disabled "$(enabled)"

systemctl enable --quiet "$unit"
echo "NODE_NAME=changed" >>/etc/balancing/agent.env
mkdir /var/lib/balancing
dpkg -i /package.deb >/dev/null
equal "the service after an upgrade" enabled "$(enabled)"
equal "the settings after an upgrade" "NODE_NAME=changed" "$(tail -n 1 /etc/balancing/agent.env)"

dpkg -r balancing >/dev/null
left=$(comm -13 <(echo "$before") <(everything) | cut -d' ' -f1 | tr '\n' ' ')
equal "left after removal" "/etc/balancing /etc/balancing/agent.env /var/lib/balancing " "$left"
dpkg -P balancing >/dev/null
equal "left after purge" "" "$(comm -3 <(echo "$before") <(everything))"
echo "removal leaves $left, purge nothing"
