// A webpack loader: changes a workflow's source text on its way into a bundle. `find` must be there once, or the change would be none.
module.exports = function plant(source) {
  const { find, replace } = this.getOptions();
  if (source.split(find).length !== 2) throw new Error(`${this.resourcePath}: not once in it: ${find}`);
  return source.replace(find, () => replace);
};
