#!/usr/bin/env bash
# Audits TUNED against BASE (or what TUNED names), writes the job summary, and ends with the audit's own status:
# 0, or 1 above FAIL_ABOVE, or 2 if it cannot be done. action.yml sets the variables; GitHub sets those of its own.
set -u -o pipefail

folder=$(mktemp -d "${RUNNER_TEMP:-${TMPDIR:-/tmp}}/intruders.XXXXXX")
audit="$folder/audit.json"
sarif="$folder/intruders.sarif"

command=(python -m intruders audit)
[ -n "${BASE:-}" ] && command+=("$BASE")
command+=("$TUNED" --json "$audit" --sarif "$sarif")
[ -n "${FAIL_ABOVE:-}" ] && command+=(--fail-above "$FAIL_ABOVE")
read -r -d '' -a options <<<"${OPTIONS:-}" # words of all lines; it ends with a status that nothing looks at
[ "${#options[@]}" -gt 0 ] && command+=("${options[@]}")

"${command[@]}" 2>"$folder/said"
status=$?
cat "$folder/said" >&2

{
  case $status in
    0) echo "**Passed**${FAIL_ABOVE:+: at most $FAIL_ABOVE intruders are allowed.}" ;;
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
