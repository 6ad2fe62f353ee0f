#!/usr/bin/env bash
# tools/on_a_gpu.sh PROFILE FOLDER [CHAPTER...]
# Run the chapters of a profile, and leave in FOLDER what speaks for the run, also if it failed: the run record (run.json), the
# table of claims (claims.txt), what the run printed (run.log), and the executed chapters with their own records.
# The exit status is that of the run; a failed run has no run record, but a claim that misses is a result and has one.
# RUN_BY=NAME says who ran it. A token in HF_TOKEN opens gated models.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
profile=${1:?"usage: tools/on_a_gpu.sh PROFILE FOLDER [CHAPTER...]"}
folder=${2:?"usage: tools/on_a_gpu.sh PROFILE FOLDER [CHAPTER...]"}
shift 2
mkdir -p "$folder"

make setup
# What the models of these profiles need beside the lock: processors for pictures, data sets, 4-bit weights.
.venv/bin/python -m pip install --quiet --no-build-isolation -c requirements.lock -e ".[vision,hub]" bitsandbytes

set +e
.venv/bin/python -m steerlib reproduce --profile "$profile" "$@" 2>&1 | tee "$folder/run.log"
status=${PIPESTATUS[0]}
.venv/bin/python -m steerlib check --profile "$profile" >"$folder/claims.txt" 2>&1
.venv/bin/python -m steerlib record make --profile "$profile" --out "$folder/run.json" --by "${RUN_BY:-}"
recorded=$?
made=_build
[ "$profile" = cpu ] || made=_build/profiles/$profile
for part in executed run; do
  [ -d "$made/$part" ] && cp -R "$made/$part" "$folder/"
done
[ "$status" -ne 0 ] && exit "$status"
exit "$recorded"
