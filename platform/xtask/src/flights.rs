//! The flights: from the source's CSV to rows of JSON, and the cut of a few days that the repository keeps.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use flate2::{Compression, GzBuilder, read::GzDecoder};

/// Columns that hold text; every other one holds whole numbers.
const TEXT: [&str; 5] = ["carrier", "tailnum", "origin", "dest", "time_hour"];

/// What the repository's sample was cut from: these days of 2013, each whole, so that aircraft come back and
/// cancelled flights are there too.
const DAYS: (u32, std::ops::RangeInclusive<u32>) = (7, 8..=12);

/// Reads the source, gzipped CSV with a header, and hands on each row as one JSON object with the header's names in the
/// header's order; `NA` becomes null. Rows for which `keep(month, day)` is false are left out.
pub(crate) fn read_csv(
    path: &Path,
    keep: impl Fn(u32, u32) -> bool,
    mut row: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut lines = BufReader::new(GzDecoder::new(file)).lines();
    let header = lines.next().context("an empty file")??;
    let columns: Vec<&str> = header.split(',').collect();
    let column =
        |name: &str| columns.iter().position(|have| *have == name).with_context(|| format!("no column {name}"));
    let (month, day) = (column("month")?, column("day")?);
    let mut json = String::new();
    for (number, line) in lines.enumerate() {
        let line = line?;
        let cells: Vec<&str> = line.split(',').collect();
        let place = || format!("{} line {}", path.display(), number + 2);
        ensure!(cells.len() == columns.len(), "{}: {} cells under {} columns", place(), cells.len(), columns.len());
        if !keep(cells[month].parse().with_context(place)?, cells[day].parse().with_context(place)?) {
            continue;
        }
        json.clear();
        for (index, (name, cell)) in columns.iter().zip(&cells).enumerate() {
            json.push_str(if index == 0 { "{\"" } else { ",\"" });
            json.push_str(name);
            json.push_str("\":");
            match *cell {
                "NA" => json.push_str("null"),
                text if TEXT.contains(name) => json.push_str(&serde_json::to_string(text)?),
                whole => {
                    whole.parse::<i64>().with_context(|| format!("{}: {name} is {whole:?}", place()))?;
                    json.push_str(whole);
                }
            }
        }
        json.push('}');
        row(&json)?;
    }
    Ok(())
}

/// Cuts the sample out of the source and writes it, gzipped, the same bytes each time. Returns the number of rows.
pub(crate) fn cut(source: &Path, target: &Path) -> anyhow::Result<usize> {
    let file = File::create(target).with_context(|| format!("creating {}", target.display()))?;
    // No name and no time in the header: a second cut makes the same file.
    let mut gzip = GzBuilder::new().mtime(0).write(file, Compression::best());
    let mut rows = 0;
    read_csv(
        source,
        |month, day| month == DAYS.0 && DAYS.1.contains(&day),
        |row| {
            rows += 1;
            Ok(writeln!(gzip, "{row}")?)
        },
    )?;
    gzip.finish()?.sync_all()?;
    Ok(rows)
}

/// Writes rows of JSON to `target`, from either form of the data: `.csv.gz` as published, or `.ndjson.gz` as kept here.
pub(crate) fn unpack(source: &Path, target: &Path) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(File::create(target)?);
    let name = source.to_string_lossy();
    if name.ends_with(".csv.gz") {
        read_csv(source, |_, _| true, |row| Ok(writeln!(file, "{row}")?))?;
    } else if name.ends_with(".ndjson.gz") {
        let packed = File::open(source).with_context(|| format!("opening {}", source.display()))?;
        let mut text = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut text)?;
        file.write_all(&text)?;
    } else {
        bail!("{}: flights come as .csv.gz or .ndjson.gz", source.display());
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(source: &Path) -> String {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("rows");
        unpack(source, &target).unwrap();
        std::fs::read_to_string(target).unwrap()
    }

    fn gzip(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        let mut gzip = GzBuilder::new().write(File::create(&path).unwrap(), Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap();
        path
    }

    #[test]
    fn a_row_keeps_its_names_their_order_and_its_gaps() {
        let folder = tempfile::tempdir().unwrap();
        let source = gzip(folder.path(), "f.csv.gz", "month,day,tailnum,arr_delay\n7,8,N1,-3\n7,9,NA,NA\n");
        let expected = "{\"month\":7,\"day\":8,\"tailnum\":\"N1\",\"arr_delay\":-3}\n\
                        {\"month\":7,\"day\":9,\"tailnum\":null,\"arr_delay\":null}\n";
        assert_eq!(unpacked(&source), expected);
    }

    #[test]
    fn a_damaged_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (row, word) in [("7,8", "2 cells"), ("7,8,N1,late", "arr_delay"), ("7,x,N1,1", "line 2")] {
            let source = gzip(folder.path(), "f.csv.gz", &format!("month,day,tailnum,arr_delay\n{row}\n"));
            let error = read_csv(&source, |_, _| true, |_| Ok(())).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{row}: {error:#}");
        }
    }

    #[test]
    fn the_sample_is_what_its_readme_says() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let sample = data.join("flights-sample.ndjson.gz");
        let rows = unpacked(&sample).lines().count();
        let readme = std::fs::read_to_string(data.join("README.md")).unwrap();
        assert!(readme.contains(&format!("{rows} rows")), "{rows} rows");
        assert!(std::fs::metadata(&sample).unwrap().len() < 300_000);
    }
}
