"use strict";
// The axes of charts: ranges, scales from values to pixels and back, and ticks.
const Axes = (() => {
  const ROOM = 0.04;  // of a range, beyond its values at each end
  const SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";

  // The smallest range with all values, or null if there are none. A logarithmic axis has no place
  // for values of 0 and less.
  function extent(lists, isLog) {
    let low = Infinity, high = -Infinity;
    for (const list of lists) for (const value of list) {
      if (value === null || (isLog && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return low <= high ? [low, high] : null;
  }

  // A range with some room at both ends; with fromZero it begins at 0, unless a value is below.
  function widened([low, high], isLog, fromZero) {
    if (isLog) {
      const room = Math.max(Math.log10(high / low) * ROOM, 0.02);
      return [low / 10 ** room, high * 10 ** room];
    }
    if (fromZero && low >= 0) return [0, high * (1 + ROOM) || 1];
    const room = (high - low) * ROOM || Math.abs(high) * ROOM || 1;
    return [low - room, high + room];
  }

  // A scale maps the values of a range to the pixels between start and end.
  function scale([low, high], [start, end], isLog) {
    const inner = isLog ? Math.log10 : value => value, outer = isLog ? v => 10 ** v : v => v;
    const from = inner(low), perUnit = (end - start) / (inner(high) - from || 1);
    return {
      range: [low, high], isLog,
      pixel: value => isLog && value <= 0 ? null : start + (inner(value) - from) * perUnit,
      value: pixel => outer(from + (pixel - start) / perUnit),
    };
  }

  // The ticks of a scale, about count: their values and texts. isWhole: only whole numbers.
  function ticks({range, isLog}, count, isWhole) {
    const powers = isLog && decades(range, count);
    const values = powers || multiples(range, count, isWhole);
    const step = values.length > 1 ? values[1] - values[0] : values[0];
    return values.map(value => ({value, text: text(value, powers ? value : step)}));
  }

  // Multiples of 1, 2 or 5 times a power of ten.
  function multiples([low, high], count, isWhole) {
    const rough = Math.max((high - low) / Math.max(1, count), isWhole ? 1 : 0);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(n => n * power).find(size => size >= rough * 0.999);
    const values = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) {
      values.push(n * step + 0);  // not -0
    }
    return values;
  }

  // Powers of ten, with 2 and 5 times them where these are few; null where a scale has too few.
  function decades([low, high], count) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const every = Math.ceil(Math.log10(high / low) / Math.max(1, count));
    for (const factors of every > 1 ? [[1]] : [[1], [1, 2, 5]]) {
      const values = [];
      for (let power = Math.ceil(first / every) * every; power <= last; power += every) {
        for (const factor of factors) values.push(factor * 10 ** power);
      }
      const shown = values.filter(value => value >= low * 0.999 && value <= high * 1.001);
      if (shown.length >= (every > 1 ? 2 : 3)) return shown;
    }
    return null;
  }

  // A value as a reader writes it, with the decimals of a step.
  function text(value, step) {
    const size = Math.abs(value), place = Math.floor(Math.log10(Math.abs(step)) + 1e-9);
    if (size && (size < 1e-4 || size >= 1e10)) return powerText(value);
    const decimals = Math.min(8, Math.max(0, -place));
    return grouped(value.toFixed(decimals));
  }

  // A number with a comma between thousands.
  function grouped(digits) {
    const [whole, fraction] = String(digits).split(".");
    return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (fraction ? "." + fraction : "");
  }

  function powerText(value) {
    const [mantissa, exponent] = value.toExponential().split("e").map(Number);
    const digits = [...String(Math.abs(exponent))].map(digit => SUPERSCRIPTS[digit]).join("");
    const factor = Number(mantissa.toPrecision(3));
    return (factor === 1 ? "" : factor + "\u00b7") + "10" + (exponent < 0 ? "\u207b" : "") + digits;
  }

  // A number with at most four significant digits, for a text about a point.
  function short(value) {
    const size = Math.abs(value);
    if (size && (size < 1e-4 || size >= 1e10)) return powerText(value);
    return size >= 1000 ? grouped(Math.round(value))
      : String(Number(value.toPrecision(4)));
  }

  return {extent, widened, scale, ticks, short, grouped};
})();
