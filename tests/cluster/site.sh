#!/usr/bin/env bash
# Print the `site` section of this machine: mirror, proxies and certificates for image builds.
#
#   tests/cluster/site.sh >.cluster/site.yaml
set -euo pipefail
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -v snapshot | head -1 | tr -d " " || true)
cat <<YAML
site:
  containers: true
  preflight: true
  retrieval_server:
    runs_on: slurm
    sbatch: [--partition=gpu, "--gres=gpu:h200:1", --cpus-per-task=16, --mem=64G, --time=1-00:00:00]
    queue_s: 20
  images:
    hardware: cpu
    base: {bootstrap: debootstrap, mirror: "$mirror"}
    same: {eval: rl, retrieval: rl}          # on a CPU one image serves all three stages; 1 GB instead of 3
    compression: [-comp, zstd, -Xcompression-level, "1"]
    cache: $(.venv/uv/bin/uv cache dir)
    environment:
YAML
for name in SSL_CERT_FILE HTTPS_PROXY HTTP_PROXY NO_PROXY https_proxy http_proxy no_proxy; do
  [ -z "${!name:-}" ] || echo "      $name: \"${!name}\""
done
[ -z "${PIP_INDEX_URL:-}" ] || echo "      UV_DEFAULT_INDEX: \"$PIP_INDEX_URL\""
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  echo "      UV_FIND_LINKS: /opt/packages"
else
  echo "      UV_INDEX: https://download.pytorch.org/whl/cpu"
  echo "      UV_INDEX_STRATEGY: unsafe-best-match"
fi
echo "    bind:"
[ ! -d /etc/ssl/certs ] || echo "      - /etc/ssl/certs"
[ ! -d "${PIP_FIND_LINKS:-}" ] || echo "      - $PIP_FIND_LINKS:/opt/packages"
