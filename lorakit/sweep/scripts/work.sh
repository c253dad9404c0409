set -euo pipefail
python3 -m venv environment
. environment/bin/activate
pip install --quiet uv
uv pip install --quiet '@@name[train] @ @@package'
base64 --decode <<< "$SPECS" > @@file
python -c 'import @@name; @@name.pull("@@repo", "@@store")' || echo 'no records there yet'
status=0
@@name run @@file --shard "$SHARD" @@options || status=$?
for _ in 1 2 3 4 5; do
  if python -c 'import @@name; @@name.push("@@store", "@@repo")'; then exit "$status"; fi
  sleep $((RANDOM % 30))  # another shard pushed meanwhile
done
exit 1
