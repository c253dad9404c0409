#!/usr/bin/env bash
@@about
set -euo pipefail
: "${HF_TOKEN:?is needed to push the records: export a token of the Hub that may write}"
specs=$(base64 < @@file | tr -d '\n')
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cat > "$folder/task.yaml" <<'END'
resources:
  accelerators: @@card:1
  cpus: 2+
  memory: @@gigabytes+
  use_spot: true
envs:
  SPECS: ''
  SHARD: ''
secrets:
  HF_TOKEN: null
run: |
@@work
END
for shard in @@numbers; do
  sky jobs launch --yes --detach-run --name "@@experiment-$shard" --env SPECS="$specs" \
    --env SHARD="$shard/@@shards" --secret HF_TOKEN "$folder/task.yaml"
done
