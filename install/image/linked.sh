#!/usr/bin/env bash
# The packages of this machine whose libraries are linked into the static binaries: the C library and the unwinder of the
# compiler. Tells names, versions, licenses and distribution, and installs their copyright files.
#
#   install/image/linked.sh amd64|arm64 ROOT
set -euo pipefail
here=$(dirname "$0")

target=$("$here/target.sh" "$1")
compiler=cc
[ "$target" = "$(rustc -vV | sed -n 's/^host: //p')" ] || compiler=${target/unknown-/}-gcc
distribution=$(. /etc/os-release && echo "$ID")
for library in libc.a libgcc_eh.a; do
    file=$(realpath "$("$compiler" -print-file-name="$library")")
    package=$(dpkg -S "$file") || { echo "$file is of no package, so its license is not known" >&2 && exit 1; }
    package=${package%%: *} name=${package%%:*}
    install -D -m 644 "/usr/share/doc/$name/copyright" "$2/usr/share/doc/$name/copyright"
    # shellcheck disable=SC2016  # dpkg-query's own variables
    printf '%s\t%s\t%s\n' "$(dpkg-query --show --showformat='${Package}\t${Version}' "$package")" \
        "$("$here/licenses.sh" "/usr/share/doc/$name/copyright")" "$distribution"
done
