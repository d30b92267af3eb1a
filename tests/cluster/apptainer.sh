#!/usr/bin/env bash
# Install Apptainer under a prefix, without changing the system's libc.
#
#   tests/cluster/apptainer.sh PREFIX     install if PREFIX/bin/apptainer does not run yet; print its version
#
# Debian 12 has no apptainer, and its libc is too old for the package in unstable. The package is relocatable: this
# script unpacks it beside a newer libc and makes it use that one (patchelf). Packages come from this machine's mirror.
set -euo pipefail
prefix=$(realpath -m "${1:?prefix}")
"$prefix/bin/apptainer" --version 2>/dev/null && exit 0

tools=(squashfs-tools squashfuse fuse-overlayfs uidmap fakeroot debootstrap patchelf libseccomp2 libsqlite3-0)
dpkg -s "${tools[@]}" >/dev/null 2>&1 ||
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${tools[@]}" >/dev/null; }

mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -1 | tr -d " " || true)
[ -n "$mirror" ] || { echo "no Debian mirror in /etc/apt" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# package SUITE NAME: download one package of another Debian release, with a separate apt state
package() {
  mkdir -p "$work/$1/lists/partial" "$work/$1/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$work/$1/sources.list"
  local options=(-o "Dir::Etc::sourcelist=$work/$1/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/$1/lists"
    -o "Dir::Cache::archives=$work/$1/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root
    -o Acquire::Check-Valid-Until=false)  # the mirror may be a snapshot
  [ -n "$(ls "$work/$1/lists" | grep -v partial)" ] || apt-get "${options[@]}" update -qq
  (cd "$work" && apt-get "${options[@]}" download -qq "$2" >/dev/null)
}
package sid apptainer
package trixie libc6

dpkg-deb -x "$work"/apptainer_*.deb "$work/apptainer"
dpkg-deb -x "$work"/libc6_*.deb "$work/libc"
mkdir -p "$prefix/lib/etc" "$prefix/glibc"
cp -a "$work/apptainer/usr/bin" "$prefix/"
cp -a "$work/apptainer/usr/lib/." "$prefix/lib/"
cp -a "$work/apptainer/etc" "$prefix/"
cp -a "$work"/libc/usr/lib/x86_64-linux-gnu/*.so* "$prefix/glibc/"
mkdir -p "$prefix/lib/var/lib/apptainer/mnt/session"
ln -sfn "$prefix/etc/apptainer" "$prefix/lib/etc/apptainer"
for program in "$prefix/bin/apptainer" "$prefix/lib/x86_64-linux-gnu/apptainer/bin/starter"; do
  patchelf --set-interpreter "$prefix/glibc/ld-linux-x86-64.so.2" --force-rpath \
    --set-rpath "$prefix/glibc:/usr/lib/x86_64-linux-gnu" "$program"
done
# Rootless builds need a range of user and group ids.
for file in /etc/subuid /etc/subgid; do grep -q "^$(id -un):" $file 2>/dev/null || echo "$(id -un):100000:65536" >>$file; done
"$prefix/bin/apptainer" --version
