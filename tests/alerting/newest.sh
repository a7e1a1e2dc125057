#!/bin/sh
# Runs a command with the newest Prometheus and Alertmanager that Debian has (unstable) before the installed ones in PATH.
# They are unpacked into a folder that is gone afterwards; nothing is installed. Needs apt, of Debian, with a mirror.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/lists/partial" "$folder/archives/partial"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$')
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror sid main" > "$folder/sources.list"
cat > "$folder/apt.conf" << END
Dir::State::lists "$folder/lists";
Dir::Cache "$folder";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
END
(
  export APT_CONFIG="$folder/apt.conf"
  cd "$folder"
  apt-get -q=2 update
  apt-get -q=2 download prometheus promtool prometheus-alertmanager
)
for package in "$folder"/*.deb; do
  dpkg -x "$package" "$folder/unpacked"
done
PATH=$folder/unpacked/usr/bin:$PATH
prometheus --version | head -n 1
prometheus-alertmanager --version | head -n 1
"$@"
