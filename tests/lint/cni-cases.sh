#!/usr/bin/env bash
# Every case of the CNI plugin and its installer has one line in docs/cni-cases.md, and the tests that it names exist.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Group and number of its cases.
groups=(A:25 B:16 C:14 D:28 E:33 F:29 G:49 H:23)
file=docs/cni-cases.md

status=0
fail() {
    echo "$*" >&2
    status=1
}

rows=$(grep -E '^\| [A-H][0-9]+ \|' "$file")
for group in "${groups[@]}"; do
    for number in $(seq "${group#*:}"); do
        case_id=${group%:*}$number
        count=$(grep -cE "^\| $case_id \|" <<<"$rows" || true)
        [ "$count" = 1 ] || fail "case $case_id has $count lines in $file, not one"
    done
done

# `file::function` in the last column.
functions=$(grep -rhoE --include='*.rs' --exclude-dir=target '^ *(async )?fn [a-z0-9_]+' . | sed -E 's/.*fn //' | sort -u)
# shellcheck disable=SC2016  # backquotes of Markdown
while read -r name; do
    function=${name##*::}
    found=$(grep -cx "$function" <<<"$functions" || true)
    [ "$found" -gt 0 ] || fail "$file: there is no test $name"
done < <(awk -F'|' '{ print $(NF - 1) }' <<<"$rows" | grep -oE '`[a-z0-9_:-]+::[a-z0-9_]+`' | tr -d '`' | sort -u)
exit $status
