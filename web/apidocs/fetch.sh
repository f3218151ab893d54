#!/usr/bin/env bash
# Brings the files of Swagger UI that the API page needs, from npm, and compresses the large ones. Run it with another
# VERSION to move on, look at the page, and commit what has changed; a test compares the files with SHA256SUMS.
set -euo pipefail
cd "$(dirname "$0")"
VERSION=5.35.0

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
(cd "$dir" && npm pack --silent "swagger-ui-dist@$VERSION" >/dev/null && tar xzf ./*.tgz)
for file in LICENSE NOTICE favicon-32x32.png swagger-ui-bundle.js.LICENSE.txt; do
  install -m 644 "$dir/package/$file" "files/$file"
done
for file in swagger-ui-bundle.js swagger-ui.css; do
  gzip -9cn "$dir/package/$file" >"files/$file.gz"
done
(cd "$dir/package" && sha256sum LICENSE NOTICE favicon-32x32.png swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css) >SHA256SUMS
