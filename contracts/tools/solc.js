// The compiler as `forge` expects it: `--version`, and `--standard-json` from stdin to stdout.
// usage: node solc.js MODULE [--version | --standard-json ...]; MODULE is the npm name the compiler is installed under.
"use strict";
const path = require("path");
const fs = require("fs");
const [module_name, ...options] = process.argv.slice(2);
const solc = require(path.join(__dirname, "..", "node_modules", module_name));

if (options.includes("--version")) {
  const version = solc.version().replace("Emscripten.clang", "Linux.g++");
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
} else if (options.includes("--standard-json")) {
  process.stdout.write(solc.compile(fs.readFileSync(0, "utf8")));
} else {
  process.stderr.write("solc.js knows --version and --standard-json only\n");
  process.exitCode = 2;
}
