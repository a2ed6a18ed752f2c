<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <renderer-v2 type="categorizedSymbol" attr="line_type" symbollevels="0" forceraster="0" enableorderby="0">
    <categories>
      <category value="glac_bound" symbol="0" label="Glacier" render="true" />
      <category value="intrnl_rock" symbol="1" label="Internal rock" render="true" />
    </categories>
    <symbols>
      <symbol type="fill" name="0" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleFill" enabled="1" locked="0" pass="0">
          <Option type="Map">
            <Option name="color" value="86,180,233,90" type="QString" />
            <Option name="style" value="solid" type="QString" />
            <Option name="outline_color" value="0,114,178,255" type="QString" />
            <Option name="outline_style" value="solid" type="QString" />
            <Option name="outline_width" value="0.4" type="QString" />
            <Option name="outline_width_unit" value="MM" type="QString" />
            <Option name="joinstyle" value="round" type="QString" />
          </Option>
          <prop k="color" v="86,180,233,90" />
          <prop k="style" v="solid" />
          <prop k="outline_color" v="0,114,178,255" />
          <prop k="outline_style" v="solid" />
          <prop k="outline_width" v="0.4" />
          <prop k="outline_width_unit" v="MM" />
          <prop k="joinstyle" v="round" />
        </layer>
      </symbol>
      <symbol type="fill" name="1" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleFill" enabled="1" locked="0" pass="0">
          <Option type="Map">
            <Option name="color" value="166,118,29,90" type="QString" />
            <Option name="style" value="solid" type="QString" />
            <Option name="outline_color" value="94,67,16,255" type="QString" />
            <Option name="outline_style" value="solid" type="QString" />
            <Option name="outline_width" value="0.4" type="QString" />
            <Option name="outline_width_unit" value="MM" type="QString" />
            <Option name="joinstyle" value="round" type="QString" />
          </Option>
          <prop k="color" v="166,118,29,90" />
          <prop k="style" v="solid" />
          <prop k="outline_color" v="94,67,16,255" />
          <prop k="outline_style" v="solid" />
          <prop k="outline_width" v="0.4" />
          <prop k="outline_width_unit" v="MM" />
          <prop k="joinstyle" v="round" />
        </layer>
      </symbol>
    </symbols>
  </renderer-v2>
</qgis>
