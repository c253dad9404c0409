#!/usr/bin/env bash
# Installs @@name for Python @@python from the parts beside this file, without a network:  bash set-up.sh [FOLDER]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mkdir -p "${1:-@@name-offline}" && cd "${1:-@@name-offline}" && pwd)
(cd "$here" && sha256sum --check --quiet SHA256SUMS)
cat "$here"/part-* | tar --extract --directory "$folder"
"${PYTHON:-python@@python}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --no-index --no-deps "$folder"/wheels/*.whl
cat > "$folder/activate" <<END
. "$folder/environment/bin/activate"
export LORAKIT_CACHE="$folder/cache" HF_HUB_CACHE="$folder/hub" HF_HUB_OFFLINE=1
END
echo "Ready:  . $folder/activate"
