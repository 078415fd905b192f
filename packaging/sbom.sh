#!/usr/bin/env bash
# Software bill of materials, CycloneDX JSON, of an installation of this package: one of Python's packages, one of what is
# bundled in the page of the viewer (viewer/package-lock.json, without what only builds it).
#   bash packaging/sbom.sh PYTHON FOLDER      PYTHON: of an environment in which nnunet-ext is installed
# Needs cyclonedx-py (pip install cyclonedx-bom) and npm 10 or later.
set -euo pipefail
python="$1"
mkdir -p "$2"
folder="$(cd "$2" && pwd)"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cyclonedx-py environment --pyproject "$root/pyproject.toml" --output-format JSON -o "$folder/nnunet-ext.cdx.json" "$python"
viewer="$(mktemp -d)"
trap 'rm -rf "$viewer"' EXIT
cp "$root/viewer/package.json" "$root/viewer/package-lock.json" "$viewer"
cd "$viewer"
npm pkg set version=0.0.0 # npm sbom insists on one; the page has the version of the Python package
npm sbom --package-lock-only --omit dev --sbom-format cyclonedx > "$folder/viewer.cdx.json"
