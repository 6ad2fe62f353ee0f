// One contestant in node: a request in each line of the input, an answer with the processor seconds of this process in each line of the output.

import fs from "node:fs/promises";
import readline from "node:readline";
import { pathToFileURL } from "node:url";
import { Desk } from "./contestants.mjs";

const place = {
  read: async (file) => new Uint8Array(await fs.readFile(file)),
  load: (file) => import(pathToFileURL(file)),
  folder: (file) => pathToFileURL(file).href,
};
const desk = new Desk(place);
for await (const line of readline.createInterface({ input: process.stdin })) {
  const before = process.cpuUsage();
  let value = null, error = null;
  try {
    value = (await desk.answer(JSON.parse(line))) ?? null;
  } catch (trouble) {
    error = String(trouble?.message ?? trouble);
  }
  const { user, system } = process.cpuUsage(before);
  process.stdout.write(`${JSON.stringify({ value, error, cpu: (user + system) / 1e6 })}\n`);
}
process.exit(0);
