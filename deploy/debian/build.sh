#!/bin/sh
# Build the Debian package from this checkout: deploy/debian/build.sh FOLDER
# Needs: apt-get install debhelper dpkg-dev fakeroot python3 python3-venv. The result is for the Python of this machine.
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source"
tar -C "$here" --exclude=./.git --exclude='./.venv*' --exclude='*_cache' --exclude=__pycache__ -cf - . | tar -C "$work/source" -xf -
cp -r "$here/deploy/debian" "$work/source/debian"
rm "$work/source/debian/build.sh"
# The version stands in one place, bwexporter/__init__.py.
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$here/bwexporter/__init__.py")
sed -i "1s/(.*)/($version)/" "$work/source/debian/changelog"
cd "$work/source" && dpkg-buildpackage --build=binary --unsigned-changes --no-check-builddeps >"$work/log" 2>&1 || { tail -40 "$work/log"; exit 1; }
mv "$work"/prometheus-bwexporter_*.deb "$out/"
ls "$out"/prometheus-bwexporter_*.deb
