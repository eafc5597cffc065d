"""Summarises the uploaded daily weather by year: days, rain, warmest and coldest day."""
import collections
import csv

days = collections.defaultdict(list)
with open("/workspace/data/seattle-weather.csv", newline="") as file:
    for row in csv.DictReader(file):
        days[row["date"].replace("/", "-")[:4]].append(row)

with open("/workspace/summary.csv", "w", newline="") as file:
    out = csv.writer(file)
    out.writerow(["year", "days", "rain_mm", "max_c", "min_c"])
    for year, rows in sorted(days.items()):
        rain = sum(float(row["precipitation"]) for row in rows)
        warm = max(float(row["temp_max"]) for row in rows)
        cold = min(float(row["temp_min"]) for row in rows)
        out.writerow([year, len(rows), round(rain, 1), warm, cold])
        print(f"{year}: {len(rows)} days, {rain:.1f} mm of rain, {cold} to {warm} C")
print(f"total: {sum(len(rows) for rows in days.values())} days")
