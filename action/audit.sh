#!/usr/bin/env bash
# Audits TUNED against BASE (or what TUNED names), writes the job summary, and ends with the audit's own status:
# 0, or 1 above FAIL_ABOVE, or 2 if it cannot be done. action.yml sets the variables; GitHub sets those of its own.
set -u -o pipefail
# The working folder is the checked-out repository: no file of it may stand for a module that Python imports.
export PYTHONSAFEPATH=1

folder=$(mktemp -d "${RUNNER_TEMP:-${TMPDIR:-/tmp}}/intruders.XXXXXX")
audit="$folder/audit.json"
sarif="$folder/intruders.sarif"

command=(python -m intruders audit)
[ -n "${BASE:-}" ] && command+=("$BASE")
command+=("$TUNED" --json "$audit" --sarif "$sarif")
[ -n "${FAIL_ABOVE:-}" ] && command+=(--fail-above "$FAIL_ABOVE")

# The words of OPTIONS as a shell would read them, without running anything of them.
split='import os, shlex, sys
try:
    words = shlex.split(sys.argv[1])
except ValueError as error:
    sys.exit(f"error: options is {sys.argv[1]!r}: {error}; expected words as in a shell; close the quotation")
sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in words))'
if python -c "$split" "${OPTIONS:-}" >"$folder/options" 2>"$folder/said"; then
  while IFS= read -r -d '' word; do command+=("$word"); done <"$folder/options"
  "${command[@]}" 2>"$folder/said"
  status=$?
  # An interpreter that fails ends with 1 too: only an audit that says so found too many intruders.
  [ "$status" = 1 ] && ! grep -q ' that --fail-above allows' "$folder/said" && status=2
else
  status=2
fi
cat "$folder/said" >&2

{
  case $status in
    0) echo "**Passed**${FAIL_ABOVE:+: at most $FAIL_ABOVE intruders are allowed.}"
      # A count that passes because there was little to count.
      grep -E '^nothing differs between | with NaN or infinity left out ' "$folder/said" |
        while IFS= read -r line; do printf '\n%s.\n' "$line"; done ;;
    1) echo "**Failed**: $(tail -n 1 "$folder/said")." ;;
    *) printf '**No audit**\n\n```text\n%s\n```\n' "$(tail -n 5 "$folder/said")" ;;
  esac
  if [ -f "$audit" ]; then
    echo
    python -m intruders card "$audit" "$folder/summary.md" >/dev/null && cat "$folder/summary.md"
  fi
} >>"${GITHUB_STEP_SUMMARY:-/dev/stdout}"

[ -f "$audit" ] && echo "audit=$audit" >>"${GITHUB_OUTPUT:-/dev/null}"
[ -f "$sarif" ] && echo "sarif=$sarif" >>"${GITHUB_OUTPUT:-/dev/null}"
exit "$status"
