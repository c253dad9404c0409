/* The theme's own file of this name draws icons as SVG and weighs half a megabyte; the fonts beside it do the same. */
