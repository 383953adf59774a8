// Counting from the proved intervals: the same rules as Vector.is_intruder_at and Audit.count.

const CERTIFICATES = ["coordinates", "overlap", "mass", "moment", "exact"];

function prepare(audit) {
  for (const matrix of audit.matrices) {
    // null stands for a number that JSON does not have; as NaN it is neither below nor above anything
    matrix.lower = matrix.lower.map((value) => value ?? NaN);
    matrix.upper = matrix.upper.map((value) => value ?? NaN);
  }
  return audit;
}

/** Whether vector j is an intruder at epsilon: true, false, or null where its interval does not tell. */
function judge(audit, matrix, j, epsilon) {
  if (epsilon === audit.epsilon) return matrix.intruder[j] === 1;
  if (matrix.upper[j] < epsilon) return true;
  return matrix.lower[j] >= epsilon ? false : null;
}

/** {least, most, energy, total} of one matrix; energy is that of the intruders that are certain. */
function tally(audit, matrix, k, epsilon) {
  const sum = { least: 0, most: 0, energy: 0, total: 0 };
  for (let j = 0; j < matrix.index.length; j++) {
    if (matrix.index[j] >= k) continue;
    const energy = matrix.values[j] ** 2;
    const verdict = judge(audit, matrix, j, epsilon);
    sum.total += energy;
    if (verdict === true) {
      sum.least += 1;
      sum.energy += energy;
    }
    if (verdict !== false) sum.most += 1;
  }
  return sum;
}

function addUp(tallies) {
  const sum = { least: 0, most: 0, energy: 0, total: 0 };
  for (const one of tallies) for (const key of Object.keys(sum)) sum[key] += one[key];
  return sum;
}

const shareOf = (sum) => (sum.total > 0 ? sum.energy / sum.total : 0);

/** [epsilon, least, most] at every step of the slider. */
function curveOverEpsilon(audit, k) {
  return Array.from({ length: 100 }, (_, i) => {
    const epsilon = Number(((i + 1) / 100).toFixed(2));
    const sum = addUp(audit.matrices.map((matrix) => tally(audit, matrix, k, epsilon)));
    return [epsilon, sum.least, sum.most];
  });
}
